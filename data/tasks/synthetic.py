"""What all synthetic tasks share: sampling on the fly, resume, evaluation sets of any length.

A task is one file with one class: `vocab_size`, `chance` and `sample`.
"""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.resumable import IGNORE, Batch, ResumableData
from data.tasks.counter_random import random_integers

GPU_TOKENS = 2**21  # drawn at once on a GPU: 16 MiB a tensor


class SyntheticTask(ResumableData):
    """A task whose samples are drawn on the fly: sample i is a pure function of (seed, i).

    The validation and evaluation sets depend on `evaluation_seed` alone: they are the same for all runs.
    """

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
            validation_samples: size of the validation set, whose lengths are the training lengths, and of another with
                the test lengths, to select by.
            test_samples: size of the test set.
            seed: of the training samples.
            evaluation_seed: of the validation and test sets; choose a recipe on another one.
            num_workers: processes that sample; 0 samples in the training process, on the device of the model.
        """
        super().__init__(batch_size, seed, num_workers)
        for name, value in (("validation_samples", validation_samples), ("test_samples", test_samples)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        if not 0 <= evaluation_seed < 2**20:
            raise ValueError(f"evaluation_seed: must lie in [0, {2**20}), got {evaluation_seed}")
        for name, (shortest, longest) in (("train_lengths", train_lengths), ("test_lengths", test_lengths)):
            if not self.min_length <= shortest <= longest:
                raise ValueError(
                    f"{name}: must be [shortest, longest] with {self.min_length} <= shortest <= longest, "
                    f"got {[shortest, longest]}"
                )
        self.train_lengths = train_lengths
        self.test_lengths = test_lengths
        self.validation_samples = validation_samples
        self.test_samples = test_samples
        self.evaluation_seed = evaluation_seed

    @abstractmethod
    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        """The samples named in index (B,), with the given lengths (B,), on their device, padded for `longest`.

        The shape follows from `longest` alone, so that a GPU need not be waited for. Only training may score more than
        one token.
        """

    @staticmethod
    def _lengths(seed: int, index: Tensor, lengths: tuple[int, int]) -> Tensor:
        return random_integers(2 * seed + 1, index, 1, *lengths)[:, 0]

    def training_batch(self, samples: range, device: torch.device) -> Batch:
        return self._draw(torch.arange(samples.start, samples.stop, device=device))

    def training_batches(self, first: int, stride: int, device: torch.device) -> Iterator[Batch]:
        """On a GPU, drawn for many steps at once: a draw is 100 to 350 operations, however few its samples."""
        if device.type != "cuda":
            yield from super().training_batches(first, stride, device)
            return
        steps = max(1, GPU_TOKENS // (self.batch_size * self.train_lengths[1]))
        while True:
            yield from self.draw_steps(first, stride, steps, device)
            first += steps * stride

    def draw_steps(self, first: int, stride: int, steps: int, device: torch.device) -> Iterator[Batch]:
        """The batches that start at the samples first, first + stride, ..., all drawn at once."""
        starts = first + stride * torch.arange(steps, device=device)
        drawn = self._draw((starts[:, None] + torch.arange(self.batch_size, device=device)).flatten())
        return map(Batch, *(field.split(self.batch_size) for field in drawn))

    def _draw(self, index: Tensor) -> Batch:
        length = self._lengths(self.seed, index, self.train_lengths)
        return self.sample(2 * self.seed, index, length, longest=self.train_lengths[1], training=True)

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
