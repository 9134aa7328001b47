"""Write tables as Markdown and CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows)]


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines, each a mapping from column to value. A column that a line lacks is empty there."""
    with path.open("w", newline="") as file:
        columns = dict.fromkeys(column for line in lines for column in line)
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
