"""What the exports for flash-linear-attention share. Its models differ in their mixers only.

ours                               theirs
embedding, norm, head              model.embeddings, model.norm, lm_head
blocks.0.mixer_norm                model.layers.0.attn_norm
blocks.0.channel_mixer.gate_up     model.layers.0.mlp.gate_proj, .up_proj
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lrnn.export.folder import Exported, common_config, mlp_of, refuse, tied
from lrnn.models import LanguageModel


def export_to_fla(
    model: LanguageModel, out: str, config: dict[str, Any], mixer_weights: Callable[[Any], dict[str, Tensor]]
) -> Exported:
    """Return a model in the terms of flash-linear-attention.

    Args:
        model: the model.
        out: folder that it will be written to.
        config: entries of config.json that describe the class and its mixers.
        mixer_weights: maps a mixer to its weights, by their names in flash-linear-attention's layer.

    Raises:
        ConfigError: if the model's blocks are not of the kind that flash-linear-attention has, or beta is a stretched
            sigmoid.
    """
    mlp, backbone = mlp_of(model), model.backbone
    mixer: Any = backbone.blocks[0].mixer
    if mixer.beta_stretch:
        raise refuse("beta_stretch", mixer.beta_stretch, "only with 0")
    if mlp is None:
        raise refuse("mlp_width", None, f"flash-linear-attention's {type(model).__name__} always has an MLP")
    weights: dict[str, Any] = {
        "model.embeddings.weight": backbone.embedding.weight,
        "model.norm.weight": backbone.norm.weight,
    }
    if not tied(model):
        weights["lm_head.weight"] = backbone.head.weight
    for i, block in enumerate(backbone.blocks):
        its = _around_the_mixer(block) | {f"attn.{name}": w for name, w in mixer_weights(block.mixer).items()}
        weights |= {f"model.layers.{i}.{name}": weight for name, weight in its.items()}
    whole = {
        **common_config(model),
        "intermediate_size": mlp.down.in_features,
        "hidden_act": "swish",
        "dtype": "bfloat16",  # the dtype in which it is loaded, as fla's chunked kernels take no float32
        **config,
    }
    lines = f"import fla, transformers\nmodel = transformers.AutoModelForCausalLM.from_pretrained({out!r}).cuda()"
    return Exported(whole, weights, lines)


def _around_the_mixer(block: Any) -> dict[str, Tensor]:
    gate, up = block.channel_mixer.gate_up.weight.chunk(2)
    return {
        "attn_norm.weight": block.mixer_norm.weight,
        "attn.o_norm.weight": block.mixer.norm.weight,
        "attn.o_proj.weight": block.mixer.out_proj.weight,
        "mlp_norm.weight": block.channel_norm.weight,
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": block.channel_mixer.down.weight,
    }
