"""The paper's Figure 4 for the runs of a sweep: sequence accuracy against the token t, as a table and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from lrnn.evaluate.length_figure import prefix_figure
from lrnn.runtime.tabular import markdown
from lrnn.sweep.select import Finished, Row

SHOWN = 6  # columns
LEARNED = 0.9

EXPLANATION = (
    f"Sequence accuracy at t, best and median of the seeds: the share of the sequences whose labels up to t are all "
    f"right. Right up to: the last t at which it is at least {LEARNED:g}, of every seed."
)


def prefix_lines(name: str, rows: Sequence[Row], train_length: int, folder: Path) -> list[str]:
    """Write <task>_prefixes.png, and return the lines of the table in Markdown; nothing if no run scored prefixes.

    Args:
        name: Name of the task.
        rows: Rows of the task.
        train_length: Longest training sequence.
        folder: Folder of the picture.
    """
    curves = {row.cell.model: [_curve(one) for one in row.chosen if "prefixes" in one.result] for row in rows}
    curves = {model: runs for model, runs in curves.items() if runs}
    if not curves:
        return []
    common = set.intersection(*(set(run) for runs in curves.values() for run in runs))
    scored = next(one.result["prefixes"] for row in rows for one in row.chosen if "prefixes" in one.result)
    trained = scored["positions"][-1] * train_length / scored["length"]
    figure = prefix_figure(curves, trained)
    figure.axes[0].set_title(name)
    picture = f"{rows[0].cell.folder.parent}_prefixes.png"
    figure.savefig(folder / picture, dpi=150)
    last = max(common, default=None)  # runs of different lengths may share no position
    columns = [t for t in sorted(common) if t == last or (t & (t - 1) == 0 and t > 1)][-SHOWN:]
    header = ("model", *(f"t = {t:,}" for t in columns), "right up to", "seeds", "steps")
    texts = [_texts(row, curves[row.cell.model], columns) for row in rows if row.cell.model in curves]
    return ["", EXPLANATION, "", *markdown(header, texts), "", f"![Sequence accuracy against t]({picture})"]


def _curve(one: Finished) -> dict[int, float]:
    prefixes = one.result["prefixes"]
    return dict(zip(prefixes["positions"], prefixes["sequence_accuracy"], strict=True))


def _texts(row: Row, runs: Sequence[Mapping[int, float]], columns: Sequence[int]) -> tuple[str, ...]:
    horizons = [max((t for t, share in run.items() if share >= LEARNED), default=0) for run in runs]
    steps = row.chosen[0].configuration["trainer"]["max_steps"]
    return (
        row.cell.model,
        *(f"{max(run[t] for run in runs):.3f}/{median(run[t] for run in runs):.3f}" for t in columns),
        " ".join(f"{t:,}" for t in sorted(horizons, reverse=True)),
        f"{len(runs)}",
        f"{steps:,}",
    )
