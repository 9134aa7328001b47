"""What is said below a table: the differences from the paper's protocol, the missing runs, the cells with few seeds."""

from collections.abc import Callable, Sequence

from lrnn.sweep.protocol import differences
from lrnn.sweep.published import CURRICULUM, PUBLISHED
from lrnn.sweep.select import Row

DIFFERS = "What differs from the paper's protocol:"
UNFINISHED = "Runs without a result:"
SEEDS = 3  # that the paper has of each cell


def differing(rows: Sequence[Row]) -> list[str]:
    """Say for the rows that the paper has too what differs from its protocol."""
    return _by_model(rows, difference)


def difference(row: Row) -> str:
    """Return what differs from the paper's protocol; empty if nothing does, or if the paper has no such row."""
    if not row.chosen or not _of_paper(row):
        return ""
    rates = [run.learning_rate for run in row.started]
    return "; ".join(differences(row.cell.model, row.cell.task, row.chosen[0].configuration, rates))


def unfinished(rows: Sequence[Row]) -> list[str]:
    """Name the rates and seeds that have no result, because their runs diverged, failed or have not ended."""
    return _by_model(rows, _unfinished)


def few_seeds(rows: Sequence[Row]) -> str:
    """Say which of the paper's cells in this sweep have fewer than three seeds; empty if none has."""
    of_paper = [row for row in rows if _of_paper(row)]
    few = [f"{row.cell.name} ({len(row.chosen)})" for row in of_paper if len(row.chosen) < SEEDS]
    if not few:
        return ""
    enough = (
        f"{len(of_paper) - len(few)} of this sweep's {len(of_paper)} cells of the paper have {SEEDS} seeds or more."
    )
    return f"{enough} Others, with their number of seeds: {', '.join(few)}."


def _by_model(rows: Sequence[Row], say: Callable[[Row], str]) -> list[str]:
    """Say something of each row; models of which the same is said share a line."""
    models: dict[str, list[str]] = {}
    for row in rows:
        if text := say(row):
            models.setdefault(text, []).append(row.cell.model)
    return [f"{', '.join(names)}: {text}" for text, names in models.items()]


def _of_paper(row: Row) -> bool:
    """Whether the paper's Table 3 or Table 5 has this cell."""
    return row.cell.task not in CURRICULUM and row.cell.model in PUBLISHED.get(row.cell.task, {})


def _unfinished(row: Row) -> str:
    if not row.started:
        return "none was started"
    seeds: dict[tuple[float, bool], list[int]] = {}
    for run in row.unfinished:
        seeds.setdefault((run.learning_rate, run in row.started), []).append(run.seed)
    return "; ".join(
        f"rate {rate:g}, seed{'s' if len(its) > 1 else ''} {', '.join(map(str, its))}{'' if begun else ', not started'}"
        for (rate, begun), its in seeds.items()
    )
