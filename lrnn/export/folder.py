"""Contents of a Hugging Face folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lrnn.models import LanguageModel, SwiGLU
from lrnn.models.layers import AddRMSNorm
from lrnn.runtime.errors import ConfigError


@dataclass(frozen=True)
class Exported:
    """A model in the terms of the class that will load it.

    Attributes:
        config: content of config.json.
        weights: tensors by the names of that class.
        to_load: lines of Python that load the folder.
        code: modelling file that is copied into the folder, if no library has the class.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    to_load: str
    code: Path | None = None


def common_config(model: LanguageModel) -> dict[str, Any]:
    backbone = model.backbone
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": backbone.head.in_features,
        "num_hidden_layers": len(backbone.blocks),
        "tie_word_embeddings": tied(model),
        "use_cache": True,
    }


def tied(model: LanguageModel) -> bool:
    return model.backbone.head.weight is model.backbone.embedding.weight


def mlp_of(model: LanguageModel) -> SwiGLU | None:
    """Return the MLP of the first block, or None where the model has none.

    Raises:
        ConfigError: if the model has norms or channel mixers that no class of the ecosystem has.
    """
    block = model.backbone.blocks[0]
    if not isinstance(block.mixer_norm, AddRMSNorm):
        raise refuse("norm", model.hparams["norm"], "only with rms")
    if not block.residual:
        raise refuse("residual", False, "only with true")
    if block.channel_mixer is not None and not isinstance(block.channel_mixer, SwiGLU):
        raise refuse("channel_mixer", type(block.channel_mixer).__name__, "only with an MLP (model.mlp_width)")
    return block.channel_mixer


def refuse(option: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"model.{option}: can't be exported with {value}, {allowed}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
