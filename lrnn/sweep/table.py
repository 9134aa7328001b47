"""The paper's table from the runs of a sweep: python -m lrnn.table --run_dir=runs/table3"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console

from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.instantiate import instantiate
from lrnn.sweep.grid import matches, read_folder
from lrnn.sweep.select import Measure, Row, make_row
from lrnn.sweep.table_report import write_report

DEFAULT_LENGTHS = 2  # columns for the longest lengths


def table(
    run_dir: str = "runs/table3",
    out: str | None = None,
    lengths: Sequence[int] | None = None,
    measure: Measure = "scaled_accuracy",
    only: str = "*",
) -> None:
    """Print the paper's scores beside those of a sweep; write table.md, table.csv, runs.csv and pictures.

    Args:
        run_dir: Folder of the sweep. The sweep need not be finished.
        out: Folder to write to. Defaults to the folder of the sweep.
        lengths: Sequence lengths that have a column of their own. Defaults to the two longest among the lengths that
            were scored beyond those of the test set.
        measure: Accuracy that is reported: scaled_accuracy, of single labels, as in the paper's tables; or
            sequence_accuracy, the share of the sequences whose labels are all right, without the paper's numbers.
        only: Name of the cells to show, "MODEL on TASK". A * stands for any text, as in "* on parity".
    """
    cells = read_folder(run_dir)
    rows = [make_row(cell, run_dir, measure) for cell in cells if matches(cell.name, only)]
    if not rows:
        raise ConfigError(f"only: no cell matches {only}; cells: {', '.join(cell.name for cell in cells)}")
    tasks = _build_tasks(rows)
    scored = sorted({length for row in rows for one in row.chosen for length in one.curve})
    if lengths is None:
        longest_test = max((task.test_lengths[1] for task in tasks.values()), default=0)
        lengths = [length for length in scored if length > longest_test][-DEFAULT_LENGTHS:]
    elif unknown := set(lengths) - set(scored):
        raise ConfigError(f"lengths: no run was scored at {sorted(unknown)}; the runs were scored at {scored}")
    # a terminal that is narrower than the table breaks its lines, and cuts off no number
    console = Console(highlight=False, width=max(Console().width, 120))
    write_report(rows, tasks, lengths, Path(out or run_dir), console, measure)


def _build_tasks(rows: Sequence[Row]) -> dict[str, Any]:
    """Build the task of each row that has finished runs, by the name of the cell. Equal options share a task."""
    built: dict[str, Any] = {}
    tasks = {}
    for row in rows:
        if row.chosen:
            data = row.chosen[0].configuration["data"]
            if (key := repr(data)) not in built:
                built[key] = instantiate("data", L.LightningDataModule, data["class_path"], data["init_args"])
            tasks[row.cell.name] = built[key]
    return tasks


def main() -> None:
    command(table, "lrnn.table")


if __name__ == "__main__":
    main()
