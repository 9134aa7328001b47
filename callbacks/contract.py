"""The contract of the callbacks: what they ask of a model and of a data module beyond Lightning's hooks.

Subclasses of `lrnn.models.LanguageModel` and of the data modules in `data` keep it. No class needs to inherit from
these Protocols; it needs the members. What scoring asks is in lrnn/evaluate/contract.py.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import lightning as L
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lrnn.evaluate.contract import LengthTask, missing_members


@runtime_checkable
class TrainedModel(Protocol):
    """A LightningModule that can be compiled, sharded, recorded and measured from outside.

    Its batches are pairs `(inputs, labels)` with those names, both (B, T): token ids padded on the right, and the right
    answers, -100 where nothing is scored. Its `training_step` calls `loss` on them.
    """

    def hot_paths(self) -> Sequence[tuple[nn.Module, str]]:
        """Return what training spends its time in, as (module, name of a method).

        Training must call these methods, and evaluation should not: they are compiled for one shape. A module other
        than the model itself is a block: its weights are gathered and its activations are recomputed as one.
        """

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats, a scalar, over the labels that are not -100.

        Args:
            tokens: token ids (B, T).
            labels: right answers (B, T).
        """

    def flops_per_token(self, context: int) -> int:
        """Return the floating-point operations of training on one token, forward and backward; may be approximate.

        Args:
            context: length of the sequence that the token stands in, in tokens.
        """


@runtime_checkable
class CountedData(Protocol):
    """A LightningDataModule that knows how far training has come.

    `LanguageModel` also reads two attributes, if it has them (data/resumable.py): `one_label`, whether every training
    sequence has exactly one label; and `labels_per_batch`, the mean number of labels of the batches of an optimizer
    step, or None if they have equally many. Without the second, the batches of a step weigh the same. For state
    consistency it reads two more (data/tasks/synthetic.py): `last_label_is_state` and `in_curriculum`.
    """

    vocab_size: int
    """Number of different tokens, which `lrnn.fit` gives to the model; token ids lie in [0, vocab_size)."""

    @property
    def samples_consumed(self) -> int:
        """Number of training sequences, over all ranks and restarts, that the weights have learned from."""


class TrainerMembers(Protocol):
    """Attributes that every Lightning trainer has and its class does not declare."""

    callbacks: list[L.Callback]
    datamodule: Any
    fast_dev_run: bool
    log_every_n_steps: int
    profiler: Profiler


def members_of(trainer: L.Trainer) -> TrainerMembers:
    """Return the trainer itself, for the attributes that its class does not declare."""
    return cast(TrainerMembers, trainer)


def trained_model(module: L.LightningModule | None) -> TrainedModel:
    """Return the module itself, or raise MisconfigurationException if it does not keep the contract."""
    if not isinstance(module, TrainedModel):
        raise MisconfigurationException(_complaint("model", module, TrainedModel))
    return module


def length_task(trainer: L.Trainer) -> LengthTask:
    """Return the trainer's data module, or raise MisconfigurationException if it can't be scored by length."""
    data = members_of(trainer).datamodule
    if not isinstance(data, LengthTask):
        raise MisconfigurationException(_complaint("data", data, LengthTask))
    return data


def counted_data(trainer: L.Trainer) -> CountedData:
    """Return the trainer's data module, or raise MisconfigurationException if it does not count its samples."""
    data = members_of(trainer).datamodule
    if not isinstance(data, CountedData):
        raise MisconfigurationException(_complaint("data", data, CountedData))
    return data


def _complaint(key: str, value: object, contract: type) -> str:
    missing = ", ".join(missing_members(value, contract))
    return f"{key}: {type(value).__name__} has no {missing} ({contract.__module__}.{contract.__name__})"
