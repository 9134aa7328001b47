"""Print our language models beside those of the paper's Table 4: python -m lrnn.evaluate table4"""

from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from statistics import mean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lrnn.evaluate.results_file import read_results
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.tabular import markdown
from lrnn.sweep.published_table4 import AVERAGED, COLUMNS, PUBLISHED_TABLE_4

Values = tuple[float | None, ...]  # one a column


def table4(
    results: Sequence[str] = ("runs/*/evaluate/tasks.json", "runs/*/*/evaluate/tasks.json"),
    out: str | None = None,
) -> None:
    """Print the paper's Table 4 and, below it, the scores that `python -m lrnn.evaluate tasks` has written.

    What was not scored is empty.

    Args:
        results: Files of scores, or patterns of them.
        out: Folder for table4.md; nothing is written when absent.
    """
    files = [name for pattern in results for name in (sorted(glob(pattern)) if "*" in pattern else [pattern])]
    ours = {}
    for path in map(Path, dict.fromkeys(files)):
        if not path.is_file():
            raise ConfigError(f"results: there is no {path}; python -m lrnn.evaluate tasks writes it")
        record = read_results(path)
        name = _name(record)
        ours[name if name not in ours else f"{name} of {path}"] = row_of(record["results"])
    groups: dict[str, Mapping[str, Values]] = {**PUBLISHED_TABLE_4, "ours": ours}
    _print(groups)
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table4.md").write_text(_markdown(groups))
        print(f"written to {folder}: table4.md")


def row_of(results: Mapping[str, Mapping[str, float]]) -> Values:
    """Return the columns of the table: perplexities as they are, shares as percentages, None where not scored.

    Args:
        results: {task: {metric: value}} of the harness.
    """
    values: dict[str, float | None] = {}
    for column, source in COLUMNS.items():
        value = results.get(source[0], {}).get(source[1]) if source else None
        values[column] = value if value is None or column.endswith("ppl") else 100 * value
    known = [value for name in AVERAGED if (value := values[name]) is not None]
    values["Avg"] = mean(known) if len(known) == len(AVERAGED) else None
    return tuple(values.values())


def _name(record: dict[str, Any]) -> str:
    """Return the name of one of our rows; it says what keeps the row from being compared with the others."""
    model = str(record.get("model", "")).rpartition(".")[2]
    ends = record.get("eigenvalue_range")
    size = f"{record['parameters'] / 1e6:,.0f}M, " if "parameters" in record else ""
    limit = f", first {record['limit']} of each task" if record.get("limit") else ""
    shots = f", {record['num_fewshot']}-shot" if record.get("num_fewshot") else ""
    reach = f" [{ends[0]:g}, {ends[1]:g}]" if ends else ""
    return f"{model}{reach} ({size}{record.get('name')}, step {record.get('step')}{limit}{shots})"


def _cells(values: Values) -> list[str]:
    columns = zip(COLUMNS, values, strict=True)
    return ["" if x is None else f"{x:.2f}" if name.endswith("ppl") else f"{x:.1f}" for name, x in columns]


def _print(groups: Mapping[str, Mapping[str, Values]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", *COLUMNS):
        table.add_column(column, no_wrap=True)
    for group, rows in groups.items():
        table.add_section()
        table.add_row(group, style="bold")
        for name, values in rows.items():
            table.add_row(name, *_cells(values))
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)  # whole, also where the terminal is narrower


def _markdown(groups: Mapping[str, Mapping[str, Values]]) -> str:
    lines: list[tuple[str, ...]] = []
    for group, rows in groups.items():
        lines.append((f"**{group}**", *[""] * len(COLUMNS)))
        lines += [(name, *_cells(values)) for name, values in rows.items()]
    return "\n".join(markdown(("model", *COLUMNS), lines)) + "\n"
