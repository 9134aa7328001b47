"""The base of all synthetic tasks: sampling on the fly, resume, and evaluation sets of any length.

A task is one file with one class, which defines `vocab_size`, `chance`, `min_length` and `sample` (data/README.md).
"""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from data.curriculum import EVALUATION_OPTIONS, Curriculum, Stage, check_evaluation, check_lengths
from data.resumable import IGNORE, Batch, ResumableData, score_first, share
from data.tasks.counter_random import random_integers

GPU_TOKENS = 2**21  # number of tokens drawn at once on a GPU: 16 MiB a tensor


class SyntheticTask(ResumableData):
    """A task whose samples are drawn on the fly: sample i is a pure function of (seed, i).

    Validation and evaluation sets depend on `evaluation_seed` but not on `seed`, so that all runs share them.
    """

    chance: float  # accuracy of a uniform guess among all answers
    min_length: int  # length of the shortest sequence that exists
    last_label_determines_state = False
    """Whether the last label of a training sequence is at its last token, and determines the state to keep."""
    changeable_options = ResumableData.changeable_options | EVALUATION_OPTIONS

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
        curriculum: list[Stage] | None = None,
    ):
        """
        Args:
            batch_size: Number of sequences in a training batch of one rank.
            train_lengths: Shortest and longest training sequence. Lengths are uniform in between.
            test_lengths: Shortest and longest test sequence. Neither training nor selection sees the test set.
            validation_samples: Size of the validation set, which has the training lengths, and of a second validation
                set with the test lengths, which serves to select weights and learning rates.
            test_samples: Size of the test set.
            seed: Seed of the training samples, in [0, 2^20); `python -m lrnn.fit` sets it to seed_everything.
            evaluation_seed: Seed of the validation and test sets, in [0, 2^20). Choose a recipe on another seed than
                the one you report.
            num_workers: Number of processes that draw samples; 0 draws in the training process, on the model's device.
            curriculum: Stages of other lengths with which training begins, such as
                [{lengths: [2, 2], samples: 51200}]; after them come train_lengths. Stages are counted in samples, so
                that a sample is the same with any batch size and number of ranks.
        """
        super().__init__(batch_size, seed, num_workers)
        check_evaluation(evaluation_seed, {"validation_samples": validation_samples, "test_samples": test_samples})
        check_lengths(self.min_length, train_lengths=train_lengths, test_lengths=test_lengths)
        self.curriculum = Curriculum(curriculum, train_lengths, self.min_length)
        self.train_lengths = train_lengths
        self.test_lengths = test_lengths
        self.validation_samples = validation_samples
        self.test_samples = test_samples
        self.evaluation_seed = evaluation_seed

    @abstractmethod
    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        """Return the samples with numbers `index` (B,) and lengths `length` (B,), on the device of `index`.

        The number of columns T depends on `longest` only, never on `length`: reading a tensor of a GPU would make the
        CPU wait. With `training` false, a sequence has one label, or several if the task scores every answer.
        """

    @staticmethod
    def _lengths(seed: int, index: Tensor, lengths: tuple[int, int]) -> Tensor:
        return random_integers(2 * seed + 1, index, 1, *lengths)[:, 0]

    @property
    def in_curriculum(self) -> bool:
        """Whether the next training sample is of a stage before the last, `train_lengths`."""
        return self.samples_consumed < self.curriculum.samples

    @property
    def last_label_is_state(self) -> bool:
        """Whether every training sequence fills its row up to a last label, which determines the state to keep.

        A batch in which a curriculum changes the length is the exception: its shorter sequences are padded.
        """
        return self.last_label_determines_state and all(a == b for a, b in self.curriculum.lengths)

    def training_batch(self, samples: range, device: torch.device) -> Batch:
        parts = self.curriculum.parts(samples)
        longest = max(lengths[1] for _, lengths in parts)
        drawn = [self._draw(torch.arange(x.start, x.stop, device=device), lengths, longest) for x, lengths in parts]
        return drawn[0] if len(drawn) == 1 else Batch(*map(torch.cat, zip(*drawn, strict=True)))

    def training_batches(self, first: int, stride: int, device: torch.device) -> Iterator[Batch]:
        """Yield batches; a GPU draws those of many steps at once, as a draw of any size takes 100 to 350 kernels."""
        if device.type != "cuda":
            yield from super().training_batches(first, stride, device)
            return
        while True:
            (_, lengths), *more = self.curriculum.parts(range(first, first + self.batch_size))
            if more:
                yield self.training_batch(range(first, first + self.batch_size), device)
                first += stride
                continue
            steps = max(1, GPU_TOKENS // (self.batch_size * lengths[1]))
            while len(self.curriculum.parts(range(first, first + (steps - 1) * stride + self.batch_size))) > 1:
                steps = max(1, steps // 2)  # end with the stage
            yield from self.draw_steps(first, stride, steps, device)
            first += steps * stride

    def draw_steps(self, first: int, stride: int, steps: int, device: torch.device) -> Iterator[Batch]:
        """Draw `steps` batches of one stage at once, which start at samples first, first + stride, ..."""
        starts = first + stride * torch.arange(steps, device=device)
        lengths = self.curriculum.at(first)
        index = (starts[:, None] + torch.arange(self.batch_size, device=device)).flatten()
        drawn = self._draw(index, lengths, lengths[1])
        return map(Batch, *(field.split(self.batch_size) for field in drawn))

    def _draw(self, index: Tensor, lengths: tuple[int, int], longest: int) -> Batch:
        length = self._lengths(self.seed, index, lengths)
        return self.sample(2 * self.seed, index, length, longest=longest, training=True)

    def val_dataloader(self) -> DataLoader:
        batches = self.evaluation_batches(*self.train_lengths, self.validation_samples, validation=True)
        shares = [self._share(batch) for batch in batches]
        # Lightning would deal the batches to the ranks again, and repeat some. This sampler gives all to this rank.
        sampler = DistributedSampler(shares, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type, var-annotated]
        return DataLoader(shares, batch_size=None, sampler=sampler)  # type: ignore[arg-type]

    def _share(self, batch: Batch) -> Batch:
        rows, scored = share(range(len(batch.inputs)), *self.rank_and_ranks)
        return score_first(Batch(*(field[rows] for field in batch)), scored)

    def evaluation_batches(
        self, shortest: int, longest: int, samples: int, validation: bool = False, tokens: int = 2**17
    ) -> Iterator[Batch]:
        """Yield a fixed set of `samples` sequences with lengths in [shortest, longest], sorted by length.

        A batch has at most `tokens` tokens, or one sequence if that is longer. The set depends on `evaluation_seed`,
        on both lengths and on `validation`.

        Raises ValueError if `shortest` is below the task's `min_length`.
        """
        if shortest < self.min_length:
            raise ValueError(f"lengths: {type(self).__name__} needs at least {self.min_length}, got {shortest}")
        # Every set has a seed of its own. The complement is negative, so that it differs from every training seed.
        seed = ~(((self.evaluation_seed * 2**20 + longest) * 2**20 + shortest) * 2 + validation)
        index = torch.arange(samples)
        length = self._lengths(seed, index, (shortest, longest))
        for chosen in length.argsort(stable=True).split(max(1, tokens // longest)):
            rows = length[chosen]
            yield self.sample(2 * seed, index[chosen], rows, longest=int(rows.max()), training=False)

    def constant_accuracy(self) -> float:
        """Accuracy on the test set of the best constant answer.

        A model reaches it by learning the frequencies of the labels only. A uniform guess reaches `chance`.
        """
        batches = self.evaluation_batches(*self.test_lengths, self.test_samples)
        answers = torch.cat([batch.labels[batch.labels != IGNORE] for batch in batches])
        return float(answers.bincount().max() / len(answers))
