"""Export DeltaNet, with either range, as flash-linear-attention's DeltaNetForCausalLM.

    ours                               theirs
    blocks.0.mixer.in_proj             layers.0.attn.{q,k,v,b}_proj
    blocks.0.mixer.conv                layers.0.attn.{q,k,v}_conv1d
    blocks.0.channel_mixer.gate_up     layers.0.mlp.gate_proj, .up_proj

Both scale q by d_head^-1/2 and normalise q and k after SiLU, without a bias. Theirs divides by sqrt(|k|^2 + 1e-6), ours
by |k|. The two agree to rounding unless a key is shorter than about 0.1.
"""

from typing import Any

from torch import Tensor

from lrnn.export.folder import Exported, common_config, mlp_of, refuse, tied
from lrnn.models import DeltaNet


def export_delta_net(model: DeltaNet, out: str) -> Exported:
    mlp, backbone = mlp_of(model), model.backbone
    if mlp is None:
        raise refuse("mlp_width", None, "flash-linear-attention's DeltaNet always has an MLP")
    mixer: Any = backbone.blocks[0].mixer
    channels, width = mixer.out_proj.in_features, mixer.out_proj.out_features
    config = {
        "architectures": ["DeltaNetForCausalLM"],
        "model_type": "delta_net",
        **common_config(model),
        "num_heads": mixer.heads,
        "expand_k": channels / width,
        "expand_v": channels / width,
        "intermediate_size": mlp.down.in_features,
        "allow_neg_eigval": mixer.beta_scale == 2,
        "use_short_conv": mixer.conv.kernel_size > 0,
        "conv_size": mixer.conv.kernel_size,
        "norm_eps": mixer.norm.eps,
        "use_beta": True,
        "use_gate": False,
        "qk_norm": "l2",
        "qk_activation": "silu",
        "hidden_act": "swish",
        "dtype": "bfloat16",  # the dtype that it loads in, since fla's chunked kernel takes no float32
    }
    weights: dict[str, Any] = {
        "model.embeddings.weight": backbone.embedding.weight,
        "model.norm.weight": backbone.norm.weight,
    }
    if not tied(model):
        weights["lm_head.weight"] = backbone.head.weight
    for i, block in enumerate(backbone.blocks):
        weights |= {f"model.layers.{i}.{name}": weight for name, weight in block_weights(block).items()}
    return Exported(
        config,
        weights,
        f"import fla, transformers\nmodel = transformers.AutoModelForCausalLM.from_pretrained({out!r}).cuda()",
    )


def block_weights(block: Any) -> dict[str, Tensor]:
    mixer, mlp = block.mixer, block.channel_mixer
    gate, up = mlp.gate_up.weight.chunk(2)
    weights = {
        "attn_norm.weight": block.mixer_norm.weight,
        "attn.o_norm.weight": mixer.norm.weight,
        "attn.o_proj.weight": mixer.out_proj.weight,
        "mlp_norm.weight": block.channel_norm.weight,
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": mlp.down.weight,
    }
    channels = mixer.out_proj.in_features
    for name, weight in zip("qkvb", mixer.in_proj.weight.split([channels] * 3 + [mixer.heads]), strict=True):
        weights[f"attn.{name}_proj.weight"] = weight
    if mixer.conv.kernel_size:
        for name, weight in zip("qkv", mixer.conv.weight.chunk(3), strict=True):
            weights[f"attn.{name}_conv1d.weight"] = weight[:, None]
    return weights
