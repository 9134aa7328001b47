"""A line of the benchmark's table."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass
class Row:
    """What was measured, ours and the baseline's; for times and sizes less is better, for rates and shares more."""

    name: str
    ours: float
    baseline: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        """Above 1 where ours is better."""
        if self.baseline is None:
            return None
        less_is_better = self.unit in ("ms", "GiB")
        return self.baseline / self.ours if less_is_better else self.ours / self.baseline


def in_turn(ours: Callable[[], float], baseline: Callable[[], float], rounds: int) -> tuple[float, float]:
    """The medians of ours and of the baseline, measured in turn, so that a drift of the machine meets both."""
    times = [(baseline(), ours()) for _ in range(rounds)]
    return median(time for _, time in times), median(time for time, _ in times)
