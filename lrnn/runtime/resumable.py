"""Find out whether a run can continue from a checkpoint: it must have the same model, options and data."""

from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from callbacks import FullySharded
from lrnn.models import LanguageModel
from lrnn.models.class_path import import_path
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.whole_checkpoint import read_whole


def check_resumable(path: Path, model: LanguageModel, data: L.LightningDataModule, trainer: L.Trainer) -> None:
    """Check a checkpoint before its weights are read.

    Args:
        path: A file or a folder of shards (lrnn/runtime/checkpoint.py).
        model: Model of the configuration.
        data: Data module of the configuration.
        trainer: Trainer of the configuration. Of the strategies, only FSDP reads shards.

    Raises:
        ConfigError: with the first difference, or if the checkpoint is damaged.
        ValueError: if the data module refuses, for another curriculum or seed for example.
    """
    saved = read_whole(path)
    for key, ours in (("model", model), ("data", data)):
        if saved[key] != import_path(type(ours)):
            raise ConfigError(f"{key}: {path} holds {saved[key]}, the configuration {import_path(type(ours))}")
    for name, value in model.hparams.items():
        before = saved["hyper_parameters"].get(name)
        if before != value:
            raise ConfigError(f"model.{name}: {path} has {before}, the configuration {value}")
    if saved["global_step"] > trainer.max_steps:
        raise ConfigError(
            f"trainer.max_steps: must be at least {saved['global_step']}, the step of {path}, got {trainer.max_steps}; "
            f"--config {path.parents[1] / 'config.yaml'} has the run's own options"
        )
    if path.is_dir() and not isinstance(trainer.strategy, FullySharded):
        raise ConfigError(f"trainer.strategy: {path} is in shards; continue it with --trainer.strategy=fsdp2")
    if path.is_file():
        _check_weights(path, saved, model.state_dict())
    try:
        data.load_state_dict(saved[type(data).__qualname__])
    except (LookupError, TypeError) as error:
        raise ConfigError(f"resume: {path} does not say how far {type(data).__name__} has come") from error


def _check_weights(path: Path, saved: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Refuse the first weight that is missing, that the model does not have, or that has another shape."""
    theirs = {name: tuple(weight.shape) for name, weight in saved["state_dict"].items()}
    ours = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ConfigError(f"resume: {path} has {name} {theirs.get(name)}, the configuration {ours.get(name)}")
