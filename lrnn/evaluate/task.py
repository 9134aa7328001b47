"""The task that a checkpoint is scored on, and the checks that it fits the checkpoint and the options."""

from collections.abc import Sequence
from typing import Any

import lightning as L

from lrnn.evaluate.contract import LengthTask, missing_members
from lrnn.models import LanguageModel
from lrnn.models.class_path import import_path
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.instantiate import instantiate


def load_task(class_path: str | None, options: dict[str, Any], of_run: dict[str, Any] | None) -> LengthTask:
    """Return the data module to score on.

    Args:
        class_path: Its import path; that of the run when absent.
        options: Its options. If it is the run's own, these replace those of the run.
        of_run: What the run's configuration says of its data: class_path and init_args; None if there is none.

    Raises:
        ConfigError: if neither names a data module, or if it has no evaluation sequences of given lengths.
    """
    if of_run is None and class_path is None:
        raise ConfigError(
            "task: the checkpoint's run has no config.yaml to name one; set it, such as --task=data.Parity"
        )
    if of_run is not None and class_path in (None, of_run["class_path"]):
        class_path, options = of_run["class_path"], {**of_run.get("init_args", {}), **options}
    task = instantiate("task", L.LightningDataModule, str(class_path), options)
    if not isinstance(task, LengthTask):
        missing = ", ".join(missing_members(task, LengthTask))
        raise ConfigError(f"task: {import_path(type(task))} can't be scored by length, it has no {missing}")
    return task


def check_lengths(task: LengthTask, spans: Sequence[tuple[int, int]]) -> None:
    """Check that the task has sequences between each pair (shortest, longest), else raise a ConfigError."""
    for shortest, longest in spans:
        if shortest > longest:
            raise ConfigError(f"test_lengths: must be [shortest, longest], got {[shortest, longest]}")
        try:
            next(iter(task.evaluation_batches(shortest, longest, 1)))
        except ValueError as error:
            raise ConfigError(str(error)) from error


def check_vocabulary(model: LanguageModel, task: LengthTask) -> None:
    """Check that the model knows all tokens of the task, else raise a ConfigError."""
    size = model.backbone.head.out_features
    if task.vocab_size > size:
        raise ConfigError(f"task: {import_path(type(task))} has {task.vocab_size} tokens, the model {size}")
