"""What a Hugging Face folder holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lrnn.models import LanguageModel
from lrnn.runtime.errors import ConfigError


@dataclass(frozen=True)
class Exported:
    """A model in the terms of the class that will load it."""

    config: dict[str, Any]  # config.json
    weights: dict[str, Tensor]
    to_load: str  # Python
    code: Path | None = None  # a modelling file that travels along


def common_config(model: LanguageModel) -> dict[str, Any]:
    backbone = model.backbone
    return {
        "vocab_size": backbone.head.out_features,
        "hidden_size": backbone.head.in_features,
        "num_hidden_layers": len(backbone.blocks),
        "tie_word_embeddings": tied(model),
        "use_cache": True,
    }


def tied(model: LanguageModel) -> bool:
    return model.backbone.head.weight is model.backbone.embedding.weight


def refuse(option: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"model.{option}: can't be exported with {value}, {allowed}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
