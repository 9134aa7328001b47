"""Export DeltaNet, with either range, as flash-linear-attention's DeltaNetForCausalLM.

    ours                               theirs
    blocks.0.mixer.in_proj             layers.0.attn.{q,k,v,b}_proj
    blocks.0.mixer.conv                layers.0.attn.{q,k,v}_conv1d

Both scale q by d_head^-1/2 and normalise q and k after SiLU, or without an activation. Theirs divides by
sqrt(|k|^2 + 1e-6), ours by |k|. The two agree to rounding unless a key is shorter than about 0.1.
"""

from typing import Any

from torch import Tensor

from lrnn.export.flash_linear_attention import export_to_fla
from lrnn.export.folder import Exported
from lrnn.models import DeltaNet
from lrnn.models.unit_keys import steepen


def export_delta_net(model: DeltaNet, out: str) -> Exported:
    mixer: Any = model.backbone.blocks[0].mixer
    channels, width = mixer.out_proj.in_features, mixer.out_proj.out_features
    config = {
        "architectures": ["DeltaNetForCausalLM"],
        "model_type": "delta_net",
        "num_heads": mixer.heads,
        "expand_k": channels / width,
        "expand_v": channels / width,
        "allow_neg_eigval": mixer.beta_scale == 2,
        "use_short_conv": mixer.conv.kernel_size > 0,
        "conv_size": mixer.conv.kernel_size,
        "norm_eps": mixer.norm.eps,
        "use_beta": True,
        "use_gate": False,
        "qk_norm": "l2",
        "qk_activation": mixer.qk_activation,
    }
    return export_to_fla(model, out, config, mixer_weights)


def mixer_weights(mixer: Any) -> dict[str, Tensor]:
    weights = {}
    channels = mixer.out_proj.in_features
    for name, weight in zip("qkvb", mixer.in_proj.weight.split([channels] * 3 + [mixer.heads]), strict=True):
        weights[f"{name}_proj.weight"] = weight
    weights["b_proj.weight"] = steepen(weights["b_proj.weight"], mixer.beta_slope)
    if mixer.conv.kernel_size:
        for name, weight in zip("qkv", mixer.conv.weight.chunk(3), strict=True):
            weights[f"{name}_conv1d.weight"] = weight[:, None]
    return weights
