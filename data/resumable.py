"""The base of all data modules: training samples are numbered, and a run counts those that it has consumed."""

import atexit
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple
from weakref import WeakMethod

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.whole_steps import check_steps, start_at_a_step

IGNORE = -100  # the label of a position that is not scored


class Batch(NamedTuple):
    """B sequences of T tokens."""

    inputs: Tensor  # token ids (B, T), int64, padded on the right
    labels: Tensor  # token ids (B, T), int64; IGNORE where the output is not scored


def share(rows: Sequence[int], rank: int, ranks: int) -> tuple[list[int], int]:
    """Deal the rows of a validation batch to the ranks, so that every row counts once and all ranks hold equally many.

    Sharded models need equally many batches on all ranks.

    Returns:
        the rows of this rank, followed by at most one row that must not be scored; and the number of rows to score.
    """
    own = list(rows[rank::ranks])
    return [*own, *rows[: -(-len(rows) // ranks) - len(own)]], len(own)


def score_first(batch: Batch, rows: int) -> Batch:
    """Return the batch with the labels of its first `rows` rows only; the other rows pad it."""
    unscored = (torch.arange(len(batch.labels)) >= rows)[:, None]
    return Batch(batch.inputs, batch.labels.masked_fill(unscored, IGNORE))


class ResumableData(L.LightningDataModule, ABC):
    """A data module whose training sample n is a pure function of (seed, n), for n = 0, 1, 2, ... without end.

    Every training batch takes the next batch_size * ranks samples. The samples therefore do not depend on the number
    of workers or on where an epoch ends, and a resumed run continues with the sample after the last one that it has
    learned from, also with another batch size, number of ranks or number of accumulated batches.
    """

    vocab_size: int
    one_label = False  # True if every training sequence has exactly one label; a model then computes that logit only
    equal_labels = False  # True if all training sequences have equally many labels; one_label implies it
    changeable_options: frozenset[str] = frozenset({"batch_size", "num_workers"})
    """Options that a run may resume with another value of, since the training samples do not depend on them."""

    def __init__(self, batch_size: int, seed: int, num_workers: int):
        """
        Args:
            batch_size: Number of sequences in a training batch of one rank.
            seed: Seed of the training samples, in [0, 2^20); `python -m lrnn.fit` sets it to seed_everything.
            num_workers: Number of processes that load training batches; 0 loads them in the training process.

        Raises:
            ValueError: if an option is out of its range.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size: must be at least 1, got {batch_size}")
        if not 0 <= seed < 2**20:
            raise ValueError(f"data.seed: is seed_everything, and must lie in [0, {2**20}), got {seed}")
        if num_workers < 0:
            raise ValueError(f"data.num_workers: must be at least 0, got {num_workers}")
        most = 8 * (os.cpu_count() or 1)
        if num_workers > most:
            raise ValueError(f"data.num_workers: must be at most {most}, 8 processes a core, got {num_workers}")
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self._fixed_options: dict[str, Any] = {"seed": seed}  # a run resumes with the same values only
        self._resumed_at = (0, 0)  # samples and optimizer steps before this process started
        self._counted = (range(0), 0)  # samples of the present optimizer step, and their labels

    @abstractmethod
    def training_batch(self, samples: range, device: torch.device) -> Batch:
        """Return the training samples with these numbers, on `device` or, if they are read from a disk, on the CPU."""

    def training_batches(self, first: int, stride: int, device: torch.device) -> Iterator[Batch]:
        """Yield batches of batch_size samples that start at samples first, first + stride, ..., without end."""
        while True:
            yield self.training_batch(range(first, first + self.batch_size), device)
            first += stride

    def setup(self, stage: str) -> None:
        if self.trainer is not None:
            check_steps(self.trainer)

    def train_dataloader(self) -> DataLoader:
        if self.trainer is not None:
            start_at_a_step(self.trainer)
        # Persistent workers would begin the next epoch after the batches that they have prefetched, and skip those.
        return _TrainingLoader(_TrainingBatches(self), batch_size=None, num_workers=self.num_workers)

    @property
    def rank_and_ranks(self) -> tuple[int, int]:
        """Number of this process, and of all processes, that train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def samples_consumed(self) -> int:
        """Number of samples, over all ranks, that the weights have learned from."""
        samples, step = self._resumed_at
        trainer = self.trainer
        if trainer is None:
            return samples
        samples_a_step = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        return samples + (trainer.global_step - step) * samples_a_step

    def labels_of(self, samples: range) -> int:
        """Count the labels of training samples. Override this where they can be counted without drawing the samples."""
        return int((self.training_batch(samples, torch.device("cpu")).labels != IGNORE).sum())

    @property
    def labels_per_batch(self) -> float | None:
        """Mean number of labels of the batches that the present optimizer step learns from, over all ranks.

        None if a step learns from one batch only, or if all batches have equally many labels. A model weights the loss
        of a batch by its number of labels over this mean, so that a step is that of one large batch. Counting takes no
        communication, since every rank knows the samples of the others.
        """
        batches = self.trainer.world_size * self.trainer.accumulate_grad_batches if self.trainer else 1
        if batches == 1 or self.one_label or self.equal_labels:
            return None
        first = self.samples_consumed
        samples = range(first, first + batches * self.batch_size)
        if self._counted[0] != samples:
            self._counted = (samples, self.labels_of(samples))
        return self._counted[1] / batches

    def record_options(self, options: Mapping[str, Any]) -> None:
        """Save the options that the module was made with, as plain values, for its checkpoints.

        A run then resumes with the same values only, except those of `changeable_options`.
        """
        fixed = {name: value for name, value in options.items() if name not in self.changeable_options}
        self._fixed_options.update(fixed)

    def state_dict(self) -> dict[str, Any]:
        step = self.trainer.global_step if self.trainer else 0
        return {**self._fixed_options, "samples_consumed": self.samples_consumed, "global_step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the samples of a checkpoint.

        Raises:
            ValueError: if the checkpoint was trained with another value of an option that must stay the same. An option
                that the checkpoint does not name, as those of older versions, is not compared.
        """
        for name, value in self._fixed_options.items():
            before = state_dict.get(name, value)
            if before != value:
                raise ValueError(f"data.{name}: the checkpoint was trained with {before}, got {value}")
        self._resumed_at = (state_dict["samples_consumed"], state_dict["global_step"])


class _TrainingLoader(DataLoader):
    """Starts at the first sample that is not consumed yet, whenever Lightning begins an epoch."""

    dataset: "_TrainingBatches"

    def __iter__(self) -> Any:
        self.dataset.start = self.dataset.data.samples_consumed  # before workers start, which get a copy
        batches: Any = super().__iter__()
        if self.num_workers:  # Python's exit would send them SIGTERM, which they ignore, and wait for their end
            atexit.register(_call, WeakMethod(batches._shutdown_workers))
        return batches


def _call(method: WeakMethod) -> None:
    """Call a method, if its object still exists."""
    if (bound := method()) is not None:
        bound()


class _TrainingBatches(IterableDataset):
    """The batches of this rank, from sample `start` on. Workers take turns."""

    def __init__(self, data: ResumableData):
        self.data = data
        self.rank, self.ranks = data.rank_and_ranks
        in_process = data.trainer and data.num_workers == 0
        self.device = data.trainer.strategy.root_device if in_process else torch.device("cpu")  # type: ignore[union-attr]
        self.start = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that a worker is started with: without the trainer, which holds locks and the model."""
        data = copy(self.data)
        data.trainer = None
        return {**self.__dict__, "data": data}

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker:  # Ctrl-C and a job's end reach workers too, but the run still needs batches to end its step
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
        batch, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.start + (batch * self.ranks + self.rank) * self.data.batch_size
        return self.data.training_batches(first, workers * self.ranks * self.data.batch_size, self.device)
