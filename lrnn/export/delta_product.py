"""Export DeltaProduct, with either range, with or without a gate, as flash-linear-attention's GatedDeltaProduct.

    ours                               theirs
    blocks.0.mixer.in_proj             layers.0.attn.{q,k,v,b}_proj, and .a_proj for the gate
    blocks.0.mixer.conv                layers.0.attn.{q,k,v}_conv1d
    blocks.0.mixer.{A_log,dt_bias}     the same, in layers.0.attn

Both order keys, values and betas by reflection first and by head second, and apply the gate before the first reflection
of a token. Theirs divides by sqrt(|k|^2 + 1e-6), ours by |k|. Their layer's range is [-1, 1] by default and their
model's [0, 1]; their heads have values of twice the size by default, and an output gate. All of these are written out.
"""

from typing import Any

from torch import Tensor

from lrnn.export.flash_linear_attention import export_to_fla
from lrnn.export.folder import Exported, refuse
from lrnn.models import DeltaProduct
from lrnn.models.unit_keys import steepen


def export_delta_product(model: DeltaProduct, out: str) -> Exported:
    """Return the model in the terms of GatedDeltaProductForCausalLM.

    Raises:
        ConfigError: if q and k have no activation, or beta has a bias: that class has no such options.
    """
    mixer: Any = model.backbone.blocks[0].mixer
    if mixer.conv is None:
        raise refuse("qk_activation", mixer.qk_activation, "only with silu")
    if mixer.beta_bias is not None:
        raise refuse("beta_bias", True, "only with false")
    config = {
        "architectures": ["GatedDeltaProductForCausalLM"],
        "model_type": "gated_deltaproduct",
        "num_heads": mixer.heads,
        "head_dim": mixer.norm.normalized_shape[0],
        "expand_v": 1.0,
        "num_householder": mixer.reflections,
        "allow_neg_eigval": mixer.beta_scale == 2,
        "use_forget_gate": mixer.forget_gate,
        "use_output_gate": False,
        "use_short_conv": mixer.conv.kernel_size > 0,
        "conv_size": mixer.conv.kernel_size,
        "norm_eps": mixer.norm.eps,
    }
    return export_to_fla(model, out, config, mixer_weights)


def mixer_weights(mixer: Any) -> dict[str, Tensor]:
    channels, n = mixer.out_proj.in_features, mixer.reflections
    sizes = [channels, n * channels, n * channels]
    gates = [n * mixer.heads, *([mixer.heads] if mixer.forget_gate else [])]
    parts = mixer.in_proj.weight.split([*sizes, *gates])
    weights = {f"{name}_proj.weight": weight for name, weight in zip("qkvba", parts, strict=False)}
    weights["b_proj.weight"] = steepen(weights["b_proj.weight"], mixer.beta_slope)
    if mixer.forget_gate:
        weights |= {"A_log": mixer.A_log, "dt_bias": mixer.dt_bias}
    if mixer.conv.kernel_size:
        for name, weight in zip("qkv", mixer.conv.weight.split(sizes), strict=True):
            weights[f"{name}_conv1d.weight"] = weight[:, None]
    return weights
