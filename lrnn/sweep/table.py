"""The paper's table from the runs of a sweep: python -m lrnn.table --run_dir=runs/table3"""

from pathlib import Path

from rich.console import Console

import data
from lrnn.runtime.command import command
from lrnn.sweep.grid import read_folder
from lrnn.sweep.select import make_row
from lrnn.sweep.table_report import write_report


def table(run_dir: str = "runs/table3", out: str | None = None) -> None:
    """Print the paper's scores beside those of a sweep; write table.md, table.csv, runs.csv and pictures.

    Args:
        run_dir: folder of the sweep; it need not be finished.
        out: where to write; the sweep's folder when absent.
    """
    rows = [make_row(cell, run_dir) for cell in read_folder(run_dir)]
    tasks = {}  # as they were run
    for row in rows:
        if row.chosen and row.cell.task not in tasks:
            task = row.chosen[0].configuration["data"]
            tasks[row.cell.task] = getattr(data, task["class_path"].removeprefix("data."))(**task["init_args"])
    # as wide as the table, in a narrower terminal too: a number that is cut off is worse than a line that is broken
    console = Console(highlight=False, width=max(Console().width, 150))
    write_report(rows, tasks, Path(out or run_dir), console)


def main() -> None:
    command(table, "lrnn.sweep.table")


if __name__ == "__main__":
    main()
