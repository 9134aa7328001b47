"""One row of the benchmark's table, and how its two numbers are measured."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass
class Row:
    """A measurement of ours and of the baseline. Less is better for times and sizes, more for rates and shares."""

    name: str
    ours: float
    baseline: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        """Ratio of the two, above 1 where ours is better; None without a baseline."""
        if self.baseline is None:
            return None
        less_is_better = self.unit in ("ms", "GiB")
        return self.baseline / self.ours if less_is_better else self.ours / self.baseline


def in_turn(ours: Callable[[], float], baseline: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Return the medians of ours and of the baseline, measured in turn so that both see the machine drift alike."""
    times = [(baseline(), ours()) for _ in range(rounds)]
    return median(time for _, time in times), median(time for time, _ in times)
