"""Read a folder of `python -m lrnn.export` back into our own model, which runs it with our kernels on any device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lrnn.export.delta_net import export_delta_net
from lrnn.export.folder import Exported
from lrnn.export.mamba import export_mamba
from lrnn.models import DeltaNet, LanguageModel, Mamba
from lrnn.runtime.errors import ConfigError


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds a model in the form of the Hugging Face ecosystem."""
    return (folder / "config.json").is_file()


def load_exported(folder: Path) -> LanguageModel:
    """Build our model and fill in the weights of an exported folder, ready to be evaluated.

    Raises:
        ConfigError: if the folder is damaged, or was not written by `python -m lrnn.export` from DeltaNet or Mamba.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        make = MAKERS.get(config.get("model_type"))
        if make is None:
            known = ", ".join(map(str, MAKERS))
            raise ConfigError(f"checkpoint: {folder} has a {config.get('model_type')}, only {known} can be read back")
        saved = {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}
        model, exported = make(config)
        _fill(exported.weights, saved)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"checkpoint: {folder} is not a whole folder of python -m lrnn.export ({reason})") from error
    return model.eval()


@torch.no_grad()
def _fill(weights: dict[str, Any], saved: dict[str, Any]) -> None:
    """Copy the saved weights into ours: those that an exporter names are views of the model's parameters.

    The weight of beta's logits would be a copy if beta had a slope. A model that is made from a folder has none.
    """
    if missing := weights.keys() ^ saved.keys():
        raise ValueError(f"weights that are missing or unknown: {', '.join(sorted(missing)[:3])}")
    for name, weight in weights.items():
        weight.copy_(saved[name])


def _options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"],
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "tie_embeddings": config["tie_word_embeddings"],
        "norm_eps": config["norm_eps"],
    }


def _delta_net(config: dict[str, Any]) -> tuple[LanguageModel, Exported]:
    model = DeltaNet(
        **_options(config),
        eigenvalue_range=(-1, 1) if config["allow_neg_eigval"] else (0, 1),
        heads=config["num_heads"],
        head_size=round(config["expand_k"] * config["hidden_size"] / config["num_heads"]),
        mlp_width=config["intermediate_size"],
        conv_size=config["conv_size"] if config["use_short_conv"] else 0,
        qk_activation=config["qk_activation"],
    )
    return model, export_delta_net(model, "")


def _mamba(config: dict[str, Any]) -> tuple[LanguageModel, Exported]:
    model = Mamba(
        **_options(config),
        eigenvalue_range=(-1, 1) if config["model_type"] == "mamba_negative" else (0, 1),
        state_size=config["state_size"],
        expand=config["expand"],
        conv_size=config["conv_kernel"] if config["use_conv_bias"] else 0,
    )
    return model, export_mamba(model, "")


MAKERS: dict[str | None, Callable[[dict[str, Any]], tuple[LanguageModel, Exported]]] = {
    "delta_net": _delta_net,
    "mamba": _mamba,
    "mamba_negative": _mamba,
}
