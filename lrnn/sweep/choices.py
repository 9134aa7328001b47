"""Accuracy among choices in the runs of a sweep, by family and length:

python -m lrnn.sweep.choices --run_dir=runs/sweep_state_tracking_text --out=results/evaluate/state_tracking
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.tabular import markdown, write_csv
from lrnn.sweep.grid import Run, read_folder

FILE = "choice_accuracy.json"  # that callbacks.ChoiceAccuracy writes


def choices(run_dir: str, out: str | None = None) -> None:
    """Print the accuracies of a sweep's runs by family and length; write choices.md and choices.csv.

    Args:
        run_dir: Folder of the sweep. The sweep need not be finished.
        out: Folder to write to. Defaults to the folder of the sweep.
    """
    records = [
        (run, json.loads((run.folder / FILE).read_text()))
        for cell in read_folder(run_dir)
        for run in cell.runs(run_dir)
        if (run.folder / FILE).is_file()
    ]
    if not records:
        raise ConfigError(f"run_dir: no run of {run_dir} has a {FILE}, which callbacks.ChoiceAccuracy writes")
    rows = [row for run, record in records for row in _rows(run, record)]
    lengths = sorted({length for row in rows for length in row if isinstance(length, int)})
    table = [*_medians(rows, lengths)]
    header = ("model", "family", "chance", "seeds", *(f"{length:,}" for length in lengths))
    folder = Path(out or run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "choices.md").write_text("\n".join(markdown(header, table)) + "\n")
    write_csv(folder / "choices.csv", [{str(key): value for key, value in row.items()} for row in rows])
    printed = Table(title="accuracy among choices, median of the seeds, by the number of operations")
    for heading in header:
        printed.add_column(heading, no_wrap=True)
    for cells in table:
        printed.add_row(*map(escape, cells))
    console = Console(highlight=False, width=max(Console().width, 120))  # a narrow terminal cuts off no number
    console.print(printed)
    console.print(f"written to {folder}: choices.md, choices.csv (every seed)")


def _rows(run: Run, record: dict[str, Any]) -> list[dict[Any, Any]]:
    """Return a row for each family, and one for their mean."""
    families = {name: (one["chance"], one["accuracy_at"]) for name, one in record["families"].items()}
    lengths = [*next(iter(families.values()))[1]]
    means = {length: sum(at[length] for _, at in families.values()) / len(families) for length in lengths}
    families["mean"] = record["chance"], means
    return [
        {
            "model": run.cell.model,
            "task": run.cell.task,
            "rate": run.learning_rate,
            "seed": run.seed,
            "family": family,
            "chance": chance,
            **{int(length): accuracy for length, accuracy in at.items()},
        }
        for family, (chance, at) in families.items()
    ]


def _medians(rows: list[dict[Any, Any]], lengths: list[int]) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    several = {key for key in ("task", "rate") if len({row[key] for row in rows}) > 1}
    for row in rows:
        name = row["model"] + (f" on {row['task']}" if "task" in several else "")
        name += f", rate {row['rate']:g}" if "rate" in several else ""
        groups.setdefault((row["family"], name), []).append(row)
    return [
        (
            model,
            family,
            f"{group[0]['chance']:.3f}",
            str(len(group)),
            *(_median([row[length] for row in group if length in row]) for length in lengths),
        )
        for (family, model), group in groups.items()
    ]


def _median(values: list[float]) -> str:
    """Return the text of the median; a dash where no run has questions of that length."""
    return f"{median(values):.3f}" if values else "-"


def main() -> None:
    command(choices, "lrnn.sweep.choices")


if __name__ == "__main__":
    main()
