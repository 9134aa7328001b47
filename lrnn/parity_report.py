"""The table and the picture of the parity experiment."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lrnn.evaluate.length_figure import length_figure
from lrnn.sweep.published import PUBLISHED
from lrnn.sweep.tabular import markdown

HEADER = ("model", "paper", "ours", "seeds", "1,024", "16,384", "s")


def write_report(records: Sequence[dict[str, Any]], longest_trained: int, folder: Path, console: Console) -> None:
    """Print the table; write table.md, results.json and length_generalization.png into the folder."""
    cells: dict[tuple[str, tuple[int, ...]], list[dict[str, Any]]] = {}
    for record in records:
        cells.setdefault((record["architecture"], tuple(record["eigenvalue_range"])), []).append(record)
    rows = [_row(architecture, span, runs) for (architecture, span), runs in cells.items()]

    title = f"Parity: scaled accuracy over lengths 40-256, trained on lengths up to {longest_trained}"
    explanation = "paper, ours: best/median of seeds; 1,024 and 16,384: median there; s: seconds a run"
    table = Table(title=title, caption=explanation, box=SIMPLE_HEAD, pad_edge=False)
    for name in HEADER:
        table.add_column(name, no_wrap=name != "seeds", min_width=6 if name == "seeds" else None)
    for row in rows:
        table.add_row(*row)
    console.print(table)

    lines = [f"{title} ({explanation}).", "", *markdown(HEADER, rows)]
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(json.dumps(list(records), indent=1) + "\n")
    curves = {
        f"{architecture} {list(span)}": [_curve(run) for run in runs] for (architecture, span), runs in cells.items()
    }
    length_figure(curves, longest_trained).savefig(folder / "length_generalization.png", dpi=150)
    console.print(f"written to {folder}: table.md, results.json, length_generalization.png")


def _row(architecture: str, span: tuple[int, ...], runs: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    scores = [run["scaled_accuracy"] for run in runs]
    name = f"{architecture} {list(span)}"
    paper = PUBLISHED["parity"][name]

    def at(length: int) -> str:
        values = [_curve(run)[length] for run in runs if length in _curve(run)]
        return f"{median(values):.3f}" if values else "-"

    return (
        name,
        f"{paper.best:.3f}/{paper.median:.3f}",
        f"{max(scores):.3f}/{median(scores):.3f}",
        " ".join(f"{score:.3f}" for score in scores),
        at(1024),
        at(16384),
        f"{sum(run['seconds'] for run in runs) / len(runs):.0f}",
    )


def _curve(record: dict[str, Any]) -> dict[int, float]:
    return {int(length): value for length, value in record["scaled_accuracy_at"].items()}
