"""Export Mamba: range (0, 1) as transformers' MambaForCausalLM, (-1, 1) as the class in modeling_mamba_negative.py.

    ours                               theirs, in both
    blocks.0.mixer.conv                layers.0.mixer.conv1d
    blocks.0.mixer.dt_weight, .dt_bias layers.0.mixer.dt_proj

Without a convolution (conv_size 0) our SiLU remains. It is exported as a convolution over one token with weight 1.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrnn.export.folder import Exported, common_config, mlp_of, refuse, tied
from lrnn.models import Mamba
from lrnn.ops import range_scale

NEGATIVE = Path(__file__).with_name("modeling_mamba_negative.py")


def export_mamba(model: Mamba, out: str) -> Exported:
    first: Any = model.backbone.blocks[0]
    if mlp_of(model) is not None:
        raise refuse("mlp_width", model.hparams["mlp_width"], "transformers' Mamba has no MLP")
    mixer = first.mixer
    channels, state_size = mixer.A_log.shape
    config = {
        **common_config(model),
        "state_size": state_size,
        "expand": channels // first.mixer_norm.weight.numel(),
        "time_step_rank": mixer.dt_weight.shape[1],
        "conv_kernel": max(1, mixer.conv.kernel_size),
        "use_conv_bias": mixer.conv.kernel_size > 0,
        "layer_norm_epsilon": first.mixer_norm.eps,
        "norm_eps": first.mixer_norm.eps,  # its name in fla's Mamba, which Auto classes load after "import fla"
        "use_bias": False,
        "hidden_act": "silu",
        "residual_in_fp32": True,
        "dtype": "float32",
    }
    weights: dict[str, Any] = {
        "backbone.embeddings.weight": model.backbone.embedding.weight,
        "backbone.norm_f.weight": model.backbone.norm.weight,
    }
    if not tied(model):
        weights["lm_head.weight"] = model.backbone.head.weight
    for i, block in enumerate(model.backbone.blocks):
        weights |= {f"backbone.layers.{i}.{name}": weight for name, weight in block_weights(block).items()}
    if range_scale(mixer.eigenvalue_range) == 1:
        config |= {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
        to_load = f"import transformers\nmodel = transformers.MambaForCausalLM.from_pretrained({out!r})"
        return Exported(config, weights, to_load)
    classes = {"AutoConfig": "MambaNegativeConfig", "AutoModelForCausalLM": "MambaNegativeForCausalLM"}
    config |= {
        "model_type": "mamba_negative",
        "architectures": ["MambaNegativeForCausalLM"],
        "auto_map": {auto: f"{NEGATIVE.stem}.{name}" for auto, name in classes.items()},
    }
    to_load = "import transformers\n"
    to_load += f"model = transformers.AutoModelForCausalLM.from_pretrained({out!r}, trust_remote_code=True)"
    return Exported(config, weights, to_load, NEGATIVE)


def block_weights(block: Any) -> dict[str, Tensor]:
    mixer = block.mixer
    weights = {
        "norm.weight": block.mixer_norm.weight,
        "mixer.in_proj.weight": mixer.in_proj.weight,
        "mixer.conv1d.weight": torch.ones(mixer.D.numel(), 1, 1),
        "mixer.x_proj.weight": mixer.x_proj.weight,
        "mixer.dt_proj.weight": mixer.dt_weight,
        "mixer.dt_proj.bias": mixer.dt_bias,
        "mixer.A_log": mixer.A_log,
        "mixer.D": mixer.D,
        "mixer.out_proj.weight": mixer.out_proj.weight,
    }
    if mixer.conv.kernel_size:
        weights["mixer.conv1d.weight"] = mixer.conv.weight[:, None]
        weights["mixer.conv1d.bias"] = mixer.conv.bias
    return weights
