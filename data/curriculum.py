"""A length curriculum: training begins with stages of other lengths. Also checks of lengths and evaluation sets."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Lengths = tuple[int, int]  # shortest and longest
# options of a data module that are about its evaluation sets alone
EVALUATION_OPTIONS = frozenset({"evaluation_seed", "test_lengths", "test_samples", "validation_samples"})


@dataclass
class Stage:
    """A stage of a length curriculum.

    Args:
        lengths: Shortest and longest training sequence of the stage.
        samples: Number of training sequences: steps times batch size, times ranks and accumulated batches.
    """

    lengths: Lengths
    samples: int


class Curriculum:
    """The lengths of each training sample: those of its stage, and after the last stage those of the data module."""

    def __init__(self, stages: Sequence[Stage] | None, afterwards: Lengths, least: int):
        """
        Args:
            stages: the stages in order; none when absent.
            afterwards: lengths after the last stage.
            least: smallest length that the data module has.

        Raises:
            ValueError: if lengths are not in order or below `least`, or a stage has no sample.
        """
        stages = stages or []
        for stage in stages:
            check_lengths(least, curriculum=stage.lengths)
            if stage.samples < 1:
                raise ValueError(f"data.curriculum: a stage must have at least 1 sample, got {stage.samples}")
        self.lengths = [*(stage.lengths for stage in stages), afterwards]  # of every stage, the last one without an end
        self._ends = [*accumulate(stage.samples for stage in stages)]

    @property
    def samples(self) -> int:
        """Number of samples of all stages that have an end."""
        return self._ends[-1] if self._ends else 0

    def at(self, sample: int) -> Lengths:
        """Return the lengths of a sample, given by its number."""
        return self.lengths[bisect_right(self._ends, sample)]

    def parts(self, samples: range) -> list[tuple[range, Lengths]]:
        """Split samples, given by their numbers, by stage. Return the samples and the lengths of each part."""
        bounds = pairwise([0, *self._ends, max(samples.stop, self.samples)])
        parts = [
            (range(max(samples.start, start), min(samples.stop, end)), lengths)
            for (start, end), lengths in zip(bounds, self.lengths, strict=True)
        ]
        return [(part, lengths) for part, lengths in parts if part]


def check_lengths(least: int, **lengths: Lengths) -> None:
    """Check that options of the form [shortest, longest] are in order, and not below `least`.

    Raises:
        ValueError: naming the option.
    """
    for name, (shortest, longest) in lengths.items():
        if not least <= shortest <= longest:
            raise ValueError(
                f"data.{name}: must be [shortest, longest] with {least} <= shortest <= longest, "
                f"got {[shortest, longest]}"
            )


def check_evaluation(evaluation_seed: int, sizes: Mapping[str, int]) -> None:
    """Check the seed of the evaluation sets, and that each of `sizes`, by the name of its option, is at least 1.

    Raises:
        ValueError: naming the option.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"data.{name}: must be at least 1, got {value}")
    if not 0 <= evaluation_seed < 2**20:
        raise ValueError(f"data.evaluation_seed: must lie in [0, {2**20}), got {evaluation_seed}")
