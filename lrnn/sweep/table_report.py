"""The paper's table and Figure 6 for the runs of a sweep: on the screen, as Markdown, CSV and pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, Protocol

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data import SyntheticTask
from lrnn.evaluate.length_figure import length_figure
from lrnn.runtime.tabular import markdown, write_csv
from lrnn.sweep.prefix_report import prefix_lines
from lrnn.sweep.published import CURRICULUM, PUBLISHED, Published
from lrnn.sweep.remarks import DIFFERS, UNFINISHED, difference, differing, few_seeds, unfinished
from lrnn.sweep.select import Measure, Row, median_deviation

COLUMNS = (
    "Seeds: every seed's score, best first. At a length: the median of the seeds on sequences of that length. "
    "s: mean seconds a run. Rate: the learning rate with the most finished seeds; of several, the one whose "
    "seeds have the best median on validation data."
)
UNEVEN = "*: another rate has fewer finished seeds."
EXPLANATIONS: dict[Measure, str] = {
    "scaled_accuracy": (
        "Scaled accuracy, (accuracy - chance) / (1 - chance), on the test set. Paper and ours: the best seed and the "
        "median of the seeds. Difference: our best minus the paper's, or our median minus the paper's where its best "
        f"is unknown. {COLUMNS}"
    ),
    "sequence_accuracy": (
        "Sequence accuracy, the share of the sequences whose labels are all right, on the test set. Ours: the best "
        f"seed and the median of the seeds. {COLUMNS}"
    ),
}
KEPT_EXPLANATION = (
    "These scores are of the last weights. Kept: the same for those weights of each seed that scored best during "
    "training, on a validation set of the test lengths."
)


class Task(Protocol):
    """Members of a task that the table reads."""

    train_lengths: tuple[int, int]
    test_lengths: tuple[int, int]
    test_samples: int
    chance: float


def write_report(
    rows: Sequence[Row],
    tasks: Mapping[str, Task],
    lengths: Sequence[int],
    folder: Path,
    console: Console,
    measure: Measure = "scaled_accuracy",
) -> None:
    """Write table.md, table.csv, runs.csv and a picture of each task; then print the table.

    Args:
        rows: Rows of the table, for all tasks.
        tasks: Tasks of the rows that have finished runs, by name of the cell.
        lengths: Sequence lengths that have a column of their own.
        folder: Folder to write to.
        console: Console to print to.
        measure: Accuracy that is reported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = any(one.kept is not None for row in rows for one in row.chosen)
    header = (
        *("model", "paper", "ours", "difference", "seeds"),
        *(f"at {length:,}" for length in lengths),
        *("s", "rate", "steps"),
        *(("kept",) if kept else ()),
    )
    uneven = any(row.uneven for row in rows)
    explanation = " ".join(
        [EXPLANATIONS[measure], *([UNEVEN] if uneven else []), *([KEPT_EXPLANATION] if kept else [])]
    )
    # the paper has no sequence accuracies of these tasks
    shown = [i for i, name in enumerate(header) if measure == "scaled_accuracy" or name not in ("paper", "difference")]
    header = tuple(header[i] for i in shown)
    lines = [explanation]
    said: list[Table | str] = []  # printed when the files are written, since the reader may be `head`
    for name in dict.fromkeys(row.cell.task for row in rows):
        its_rows = [row for row in rows if row.cell.task == name]
        every = [_texts(_values(row, lengths), row, lengths) for row in its_rows]
        texts = [tuple(of_row[i] for i in shown) for of_row in every]
        its_tasks = {row.cell.model: tasks[row.cell.name] for row in its_rows if row.cell.name in tasks}
        caption = _caption(its_tasks, measure)
        if name in CURRICULUM:
            caption += " The paper here is that of Mamba-3 (Appendix D), whose stages are unknown."
        said.append(_printed(name, caption, header, texts))
        lines += ["", f"## {name}", "", caption, "", *markdown(header, texts)]
        differs = differing(its_rows) if measure == "scaled_accuracy" else []
        for heading, remarks in ((DIFFERS, differs), (UNFINISHED, unfinished(its_rows))):
            if remarks:
                said.append("\n".join([heading, *remarks]))
                lines += ["", heading, "", *(f"- {line}" for line in remarks)]
        if its_tasks:
            train_length = max(task.train_lengths[1] for task in its_tasks.values())
            picture = f"{its_rows[0].cell.folder.parent}.png"  # the name of a task may have any character
            _figure(name, its_rows, train_length, measure).savefig(folder / picture, dpi=150)
            lines += ["", f"![{_words(measure).capitalize()} against sequence length]({picture})"]
            lines += prefix_lines(name, its_rows, train_length, folder)
    if measure == "scaled_accuracy" and (few := few_seeds(rows)):
        said.append(few)
        lines += ["", "## Not run", "", few]
    lines += ["", "## Commands", "", "Each command trains the best seed of a row again.", "", "```sh"]
    best = [max(row.chosen, key=lambda one: one.test) for row in rows if row.chosen]
    lines += [*(one.run.command() for one in best), "```"]
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    write_csv(folder / "table.csv", [_values(row, lengths) for row in rows])
    write_csv(folder / "runs.csv", [values for row in rows for values in _runs(row)])
    for part in said:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    console.print(f"{explanation}\nwritten to {folder}: table.md, table.csv, runs.csv, a picture of each task")


def _printed(name: str, caption: str, header: Sequence[str], texts: Sequence[Sequence[str]]) -> Table:
    printed = Table(title=escape(name), caption=escape(caption), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in header:
        printed.add_column(heading, no_wrap=heading != "seeds", min_width=6 if heading == "seeds" else None)
    for cells in texts:
        printed.add_row(*map(escape, cells))
    return printed


def _words(measure: Measure) -> str:
    return measure.replace("_", " ")


def _figure(name: str, rows: Sequence[Row], train_length: int, measure: Measure) -> Figure:
    curves = {row.cell.model: [one.curve for one in row.chosen] for row in rows if row.chosen}
    figure = length_figure(curves, train_length, _words(measure))
    figure.axes[0].set_title(name)
    return figure


def _values(row: Row, lengths: Sequence[int]) -> dict[str, Any]:
    """Return the numbers of a row, by column of table.csv; None where there is none."""
    paper = PUBLISHED.get(row.cell.task, {}).get(row.cell.model, Published(None, None, None))
    scores, chosen = row.scores, row.chosen
    seconds = [time for one in chosen if (time := one.run.seconds()) is not None]
    kept = [one.kept for one in chosen if one.kept is not None]
    pairs = ((_of(max, scores), paper.best), (_of(median, scores), paper.median))
    return {
        "task": row.cell.task,
        "model": row.cell.model,
        "paper_best": paper.best,
        "paper_median": paper.median,
        "paper_deviation": paper.deviation,
        "best": _of(max, scores),
        "median": _of(median, scores),
        "deviation": _of(median_deviation, scores),
        "difference": next((a - b for a, b in pairs if a is not None and b is not None), None),
        "seeds": len(chosen),
        **{f"at_{n}": _of(median, [one.curve[n] for one in chosen if n in one.curve]) for n in lengths},
        "seconds": _of(mean, seconds),
        "rate": chosen[0].run.learning_rate if chosen else None,
        "steps": chosen[0].configuration["trainer"]["max_steps"] if chosen else None,
        "differs": difference(row),
        "kept_best": _of(max, kept),
        "kept_median": _of(median, kept),
    }


def _of(function: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return function(values) if values else None


def _texts(values: Mapping[str, Any], row: Row, lengths: Sequence[int]) -> tuple[str, ...]:
    """Return the texts of a row, by column of the printed table."""
    scores = " ".join(f"{score:.3f}" for score in sorted(row.scores, reverse=True))
    missing = len(row.cell.seeds) - len(row.chosen)
    return (
        row.cell.model,
        _pair(values["paper_best"], values["paper_median"]),
        _pair(values["best"], values["median"]) if row.chosen else "not run",
        _text(values["difference"], "+.3f"),
        f"{scores} ({len(row.chosen)} of {len(row.cell.seeds)})".strip() if missing else scores,
        *(_text(values[f"at_{length}"], ".3f") for length in lengths),
        _text(values["seconds"], ",.0f"),
        _text(values["rate"], "g") + "*" * row.uneven,
        _text(values["steps"], ","),
        _pair(values["kept_best"], values["kept_median"]),
    )


def _pair(best: float | None, middle: float | None) -> str:
    return "-" if best is None and middle is None else f"{_text(best, '.3f')}/{_text(middle, '.3f')}"


def _text(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _runs(row: Row) -> list[dict[str, Any]]:
    """Return every run of a cell that was started, also with other rates than the selected one, by column of runs.csv.

    A run without a result has no scores.
    """
    finished = [
        {
            "task": row.cell.task,
            "model": row.cell.model,
            "rate": one.run.learning_rate,
            "seed": one.run.seed,
            "selected": one in row.chosen,
            "validation": one.validation,
            "test": one.test,
            "kept": one.kept,
            "seconds": one.run.seconds(),
            **{f"at_{length}": score for length, score in one.curve.items()},
        }
        for one in row.finished
    ]
    others = [
        {"task": row.cell.task, "model": row.cell.model, "rate": run.learning_rate, "seed": run.seed, "selected": False}
        for run in row.unfinished
        if run in row.started
    ]
    return finished + others


def _caption(tasks: Mapping[str, Task], measure: Measure) -> str:
    """Describe the task of some models. Models whose runs had other lengths or samples have a caption of their own."""
    models: dict[str, list[str]] = {}
    described = {task: _describe(task, measure) for task in tasks.values()}  # counting constant answers takes time
    for model, task in tasks.items():
        models.setdefault(described[task], []).append(model)
    if len(models) < 2:
        return next(iter(models), "No run is finished.")
    return "\n\n".join(f"{', '.join(names)}: {text}" for text, names in models.items())


def _describe(task: Task, measure: Measure) -> str:
    text = (
        f"Trained on lengths {_span(task.train_lengths)}, tested on {_span(task.test_lengths)} "
        f"({task.test_samples:,} sequences)."
    )
    if measure == "sequence_accuracy":
        return text
    text += f" A score of 0 is chance, an accuracy of {task.chance:.3f}"
    if not isinstance(task, SyntheticTask):
        return f"{text}."
    constant = (task.constant_accuracy() - task.chance) / (1 - task.chance)
    return f"{text}; the best constant answer scores {constant:.3f}."


def _span(lengths: tuple[int, int]) -> str:
    return f"{lengths[0]} to {lengths[1]}" if lengths[0] < lengths[1] else f"{lengths[0]}"
