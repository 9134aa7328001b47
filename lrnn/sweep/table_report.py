"""The paper's table and Figure 6 for the runs of a sweep: on the screen, as Markdown, CSV and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data import SyntheticTask
from lrnn.evaluate.length_figure import length_figure
from lrnn.sweep.published import PUBLISHED, Published
from lrnn.sweep.select import Row, median_deviation
from lrnn.sweep.tabular import markdown, write_csv

HEADER = ("model", "paper best", "paper median", "our best", "our median", "to paper", "seeds", "rate", "steps")
KEPT_HEADER = ("kept best", "kept median")  # where a run has kept any
COLUMNS = (
    *("task", "model", "paper_best", "paper_median", "paper_deviation"),
    *("best", "median", "deviation", "to_paper", "seeds", "rate", "steps"),
    *("kept_best", "kept_median"),
)
EXPLANATION = (
    "Scaled accuracy, (accuracy - chance) / (1 - chance), on the test set: the best seed, and the median of the seeds "
    "± their median absolute deviation. To paper: our best less the paper's, or our median if its best is not known. "
    "The rate is the one whose seeds have the best median on validation data."
)
KEPT_EXPLANATION = (
    "Our best and median are of the weights at the end; kept best and kept median of those weights of each seed that, "
    "in training, scored best on a validation set of the test lengths."
)


def write_report(rows: Sequence[Row], tasks: Mapping[str, SyntheticTask], folder: Path, console: Console) -> None:
    """`tasks` are those on which anything was run."""
    folder.mkdir(parents=True, exist_ok=True)
    header: tuple[str, ...] = HEADER
    explanation = EXPLANATION
    if any(one.kept is not None for row in rows for one in row.chosen):
        header, explanation = (*HEADER, *KEPT_HEADER), f"{EXPLANATION} {KEPT_EXPLANATION}"
    lines = [explanation]
    for name in dict.fromkeys(row.cell.task for row in rows):
        its_rows = [row for row in rows if row.cell.task == name]
        texts = [_texts(_values(row), row)[: len(header)] for row in its_rows]
        caption = _describe(tasks[name]) if name in tasks else "Nothing was run."
        printed = Table(title=name, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
        for heading in header:
            printed.add_column(heading, no_wrap=True)
        for cells in texts:
            printed.add_row(*map(escape, cells))
        console.print(printed)
        lines += ["", f"## {name}", "", caption, "", *markdown(header, texts)]
        if name in tasks:
            curves = {row.cell.model: [one.curve for one in row.chosen] for row in its_rows if row.chosen}
            figure = length_figure(curves, tasks[name].train_lengths[1])
            figure.axes[0].set_title(name)
            figure.savefig(folder / f"{name}.png", dpi=150)
            lines += ["", f"![Scaled accuracy against sequence length]({name}.png)"]
    lines += ["", "## One command a cell", "", "It trains the best seed again.", "", "```sh"]
    best = [max(row.chosen, key=lambda one: one.test) for row in rows if row.chosen]
    lines += [*(one.run.command() for one in best), "```"]
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    write_csv(folder / "table.csv", [_values(row) for row in rows])
    write_csv(folder / "runs.csv", [values for row in rows for values in _runs(row)])
    console.print(f"{explanation}\nwritten to {folder}: table.md, table.csv, runs.csv, a picture of each task")


def _values(row: Row) -> dict[str, Any]:
    """By COLUMNS; None where there is nothing."""
    paper = PUBLISHED.get(row.cell.task, {}).get(row.cell.model, Published(None, None, None))
    values = dict.fromkeys(COLUMNS) | {"task": row.cell.task, "model": row.cell.model, "seeds": len(row.chosen)}
    values |= {"paper_best": paper.best, "paper_median": paper.median, "paper_deviation": paper.deviation}
    if scores := row.scores:
        one = row.chosen[0]
        values |= {"best": max(scores), "median": median(scores), "deviation": median_deviation(scores)}
        pairs = ((max(scores), paper.best), (median(scores), paper.median))
        values["to_paper"] = next((ours - theirs for ours, theirs in pairs if theirs is not None), None)
        values |= {"rate": one.run.learning_rate, "steps": one.configuration["trainer"]["max_steps"]}
        kept = [one.kept for one in row.chosen if one.kept is not None]
        if kept:
            values |= {"kept_best": max(kept), "kept_median": median(kept)}
    return values


def _texts(values: Mapping[str, Any], row: Row) -> tuple[str, ...]:
    """By HEADER and KEPT_HEADER."""

    def spread(name: str) -> str:
        middle, deviation = values[f"{name}median"], values[f"{name}deviation"]
        return "-" if middle is None else f"{middle:.3f} ± {deviation:.3f}"

    return (
        row.cell.model,
        "-" if values["paper_best"] is None else f"{values['paper_best']:.3f}",
        spread("paper_"),
        "not run" if values["best"] is None else f"{values['best']:.3f}",
        spread(""),
        "-" if values["to_paper"] is None else f"{values['to_paper']:+.3f}",
        f"{values['seeds']} of {len(row.cell.seeds)}",
        "-" if values["rate"] is None else f"{values['rate']:g}",
        "-" if values["steps"] is None else f"{values['steps']:,}",
        *("-" if values[name] is None else f"{values[name]:.3f}" for name in ("kept_best", "kept_median")),
    )


def _runs(row: Row) -> list[dict[str, Any]]:
    """Every finished run of a cell, with those rates too that were not selected."""
    return [
        {
            "task": row.cell.task,
            "model": row.cell.model,
            "rate": one.run.learning_rate,
            "seed": one.run.seed,
            "selected": one in row.chosen,
            "validation": one.validation,
            "test": one.test,
            "kept": one.kept,
            **{f"at_{length}": score for length, score in one.curve.items()},
        }
        for one in row.finished
    ]


def _describe(task: SyntheticTask) -> str:
    constant = (task.constant_accuracy() - task.chance) / (1 - task.chance)
    return (
        f"Trained on lengths {task.train_lengths[0]} to {task.train_lengths[1]}, tested on {task.test_lengths[0]} to "
        f"{task.test_lengths[1]} ({task.test_samples:,} sequences). A score of 0 is chance, an accuracy of "
        f"{task.chance:.3f}; the best constant answer scores {constant:.3f}."
    )
