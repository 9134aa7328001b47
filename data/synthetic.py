"""What all synthetic tasks share: sampling on the fly, resume, evaluation sets of any length.

A task is one file with one class: `vocab_size`, `chance` and `sample`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.counter_random import random_integers

IGNORE = -100  # label where nothing is scored


class Batch(NamedTuple):
    inputs: Tensor  # token ids (B, T), padded on the right
    labels: Tensor  # (B, T), IGNORE where nothing is scored


class SyntheticTask(L.LightningDataModule, ABC):
    """A task whose sample i is a pure function of (seed, i).

    Training batch s of a run holds the next batch_size * ranks samples, so the data do not depend on the
    number of workers, and a resumed run goes on with the sample after the last one it has learned from.
    The validation and evaluation sets depend on `evaluation_seed` alone: they are the same for all runs.
    """

    vocab_size: int
    chance: float  # accuracy of a blind guess
    min_length: int  # of the shortest sequence that exists

    def __init__(
        self,
        batch_size: int = 1024,
        train_lengths: tuple[int, int] = (3, 40),
        test_lengths: tuple[int, int] = (40, 256),
        validation_samples: int = 1024,
        test_samples: int = 8192,
        seed: int = 0,
        evaluation_seed: int = 2411,
        num_workers: int = 0,
    ):
        """
        Args:
            batch_size: sequences a rank and step.
            train_lengths: shortest and longest training sequence, uniform in between.
            test_lengths: the same for the test set, which no training step or selection sees.
            validation_samples: size of the validation set, whose lengths are the training lengths.
            test_samples: size of the test set.
            seed: of the training samples.
            evaluation_seed: of the validation and test sets; choose a recipe on another one.
            num_workers: processes that sample; 0 samples in the training process, on the device of the model.
        """
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("validation_samples", validation_samples),
            ("test_samples", test_samples),
        ):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        for name, value in (("seed", seed), ("evaluation_seed", evaluation_seed)):
            if not 0 <= value < 2**20:
                raise ValueError(f"{name}: must lie in [0, {2**20}), got {value}")
        for name, (shortest, longest) in (("train_lengths", train_lengths), ("test_lengths", test_lengths)):
            if not self.min_length <= shortest <= longest:
                raise ValueError(
                    f"{name}: must be [shortest, longest] with {self.min_length} <= shortest <= longest, "
                    f"got {[shortest, longest]}"
                )
        self.batch_size = batch_size
        self.train_lengths = train_lengths
        self.test_lengths = test_lengths
        self.validation_samples = validation_samples
        self.test_samples = test_samples
        self.seed = seed
        self.evaluation_seed = evaluation_seed
        self.num_workers = num_workers
        self._resumed_at = (0, 0)  # samples and optimizer steps behind us when this process started

    @abstractmethod
    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        """The samples named in index (B,), with the given lengths (B,), on their device, padded for `longest`.

        The shape follows from `longest` alone, so that a GPU need not be waited for. Only training may score more
        than one token.
        """

    @staticmethod
    def _lengths(seed: int, index: Tensor, lengths: tuple[int, int]) -> Tensor:
        return random_integers(2 * seed + 1, index, 1, *lengths)[:, 0]

    # Training

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_TrainingBatches(self), batch_size=None, num_workers=self.num_workers)

    @property
    def samples_consumed(self) -> int:
        """Samples, over all ranks, that the weights have learned from."""
        samples, step = self._resumed_at
        trainer = self.trainer
        if trainer is None:
            return samples
        samples_a_step = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        return samples + (trainer.global_step - step) * samples_a_step

    def state_dict(self) -> dict[str, Any]:
        step = self.trainer.global_step if self.trainer else 0
        return {"seed": self.seed, "samples_consumed": self.samples_consumed, "global_step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["seed"] != self.seed:
            raise ValueError(f"data.seed: the checkpoint was trained with {state_dict['seed']}, got {self.seed}")
        self._resumed_at = (state_dict["samples_consumed"], state_dict["global_step"])

    # Evaluation

    def val_dataloader(self) -> DataLoader:
        batches = list(self.evaluation_batches(*self.train_lengths, self.validation_samples, validation=True))
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def evaluation_batches(
        self, shortest: int, longest: int, samples: int, validation: bool = False, tokens: int = 2**17
    ) -> Iterator[Batch]:
        """A fixed set of `samples` sequences, sorted by length, in batches of at most `tokens` tokens (or one row)."""
        if shortest < self.min_length:
            raise ValueError(f"lengths: {type(self).__name__} has none below {self.min_length}, got {shortest}")
        # a seed of its own for every set; complemented, so that no training seed meets it
        seed = ~(((self.evaluation_seed * 2**20 + longest) * 2**20 + shortest) * 2 + validation)
        index = torch.arange(samples)
        length = self._lengths(seed, index, (shortest, longest))
        for chosen in length.argsort(stable=True).split(max(1, tokens // longest)):
            rows = length[chosen]
            yield self.sample(2 * seed, index[chosen], rows, longest=int(rows.max()), training=False)

    def constant_accuracy(self) -> float:
        """Accuracy on the test set of the one answer that is right most often there: what a model gets for learning
        nothing but the frequencies of the labels. `chance` is that of a guess among all of them."""
        batches = self.evaluation_batches(*self.test_lengths, self.test_samples)
        answers = torch.cat([batch.labels[batch.labels != IGNORE] for batch in batches])
        return float(answers.bincount().max() / len(answers))


class _TrainingBatches(IterableDataset):
    """This rank's batches, from the first sample not yet consumed; workers take them in turn."""

    def __init__(self, task: SyntheticTask):
        self.task = task
        trainer = task.trainer
        self.rank, self.ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        in_process = trainer and task.num_workers == 0
        self.device = trainer.strategy.root_device if in_process else torch.device("cpu")  # type: ignore[union-attr]
        self.start = task.samples_consumed

    def __iter__(self) -> Iterator[Batch]:
        task, worker = self.task, get_worker_info()
        batch, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            first = self.start + (batch * self.ranks + self.rank) * task.batch_size
            index = torch.arange(first, first + task.batch_size, device=self.device)
            length = task._lengths(task.seed, index, task.train_lengths)
            yield task.sample(2 * task.seed, index, length, longest=task.train_lengths[1], training=True)
            batch += stride
