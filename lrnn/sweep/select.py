"""Select the learning rate of a cell: by the finished seeds, then on validation data, never on the test set.

The paper selects the rate with the best median of 3 seeds. It does not state on which data.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import yaml

from lrnn.sweep.grid import Cell, Run

Measure = Literal["scaled_accuracy", "sequence_accuracy"]


@dataclass(frozen=True)
class Finished:
    """A run, the results that it wrote at its end, and which of their accuracies is reported."""

    run: Run
    result: Mapping[str, Any]
    measure: Measure = "scaled_accuracy"

    @property
    def test(self) -> float:
        """Accuracy on the test set."""
        return self.result[self.measure]

    @property
    def validation(self) -> float:
        """Scaled accuracy on other sequences with the lengths of the test set."""
        return self.result["validation_scaled_accuracy"]

    @property
    def kept(self) -> float | None:
        """Accuracy on the test set of the weights that were best on validation data; None if none were kept."""
        return self.result.get("best_checkpoint", {}).get(self.measure)

    @property
    def curve(self) -> dict[int, float]:
        """Accuracy at each sequence length; the test set's too, if it has one length."""
        shortest, longest = self.result.get("test_lengths", (0, 1))
        test = {longest: self.test} if shortest == longest else {}
        return {int(length): score for length, score in self.result[f"{self.measure}_at"].items()} | test

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """Resolved configuration of the run, with the defaults."""
        return yaml.safe_load((self.run.folder / "config.yaml").read_text())


@dataclass(frozen=True)
class Row:
    """A cell of the table and its runs. The chosen ones are finished ones: one a seed, all with one rate."""

    cell: Cell
    finished: Sequence[Finished]
    chosen: Sequence[Finished]
    unfinished: Sequence[Run] = ()

    @property
    def scores(self) -> list[float]:
        return [one.test for one in self.chosen]

    @cached_property
    def started(self) -> list[Run]:
        """The runs that were started. Beside the folder of such a run is a log."""
        return [*(one.run for one in self.finished), *(run for run in self.unfinished if run.beside(".log").is_file())]

    @property
    def uneven(self) -> bool:
        """Whether another rate that was started has fewer finished seeds than the selected one."""
        finished = Counter(one.run.learning_rate for one in self.finished)
        return any(finished[run.learning_rate] < len(self.chosen) for run in self.started)


def make_row(cell: Cell, root: str | Path, measure: Measure = "scaled_accuracy") -> Row:
    results = [(run, run.result()) for run in cell.runs(root)]
    finished = [Finished(run, result, measure) for run, result in results if result is not None]
    return Row(cell, finished, select(finished), [run for run, result in results if result is None])


def select(finished: Sequence[Finished]) -> list[Finished]:
    """Return the runs of a cell with the selected learning rate: the one with the most finished seeds.

    The others have seeds that diverged or have not run. Of rates with equally many, the one with the best median
    validation score is selected. Of equal medians the better mean wins, then the first rate.
    """
    rates: dict[float, list[Finished]] = {}
    for one in finished:
        rates.setdefault(one.run.learning_rate, []).append(one)

    def merit(runs: Sequence[Finished]) -> tuple[int, float, float]:
        scores = [one.validation for one in runs]
        return len(scores), median(scores), mean(scores)

    return max(rates.values(), key=merit, default=[])


def median_deviation(values: Sequence[float]) -> float:
    """Return the median absolute deviation from the median."""
    middle = median(values)
    return median(abs(value - middle) for value in values)
