"""What `python -m lrnn.evaluate states` measures at a length, and the tables and the figure of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lrnn.evaluate.reflections import Head


@dataclass(frozen=True)
class StatesAtLength:
    """States after sequences of one length; all distances are divided by M at the training length."""

    length: int
    right: float
    """Share of the last labels that are right."""

    drift: float
    """Root mean square distance from the label's mean state at the training length, along the directions in which the
    mean states differ."""

    drift_across: float
    """The same across these directions, where no label can be mistaken for another."""

    spread: float
    """R: root mean square distance from the mean state that the label has at this length."""

    separation: float
    """M: distance of the labels' mean states from their mean at this length."""


def print_states(
    curves: dict[str, list[StatesAtLength]], exponents: dict[str, float | None], heads: Sequence[Head]
) -> None:
    """Print a table of each precision, and one of the heads.

    Args:
        curves: what was measured at each length, by precision.
        exponents: power of the length with which the drift grows, by precision; None if unknown.
        heads: heads of DeltaNet and DeltaProduct; empty for other models.
    """
    console = Console(width=max(Console().width, 110))
    for precision, curve in curves.items():
        grows = exponents[precision]
        title = precision if grows is None else f"{precision}: drift grows as length^{grows:.2f}"
        table = Table("length", "labels right", "drift", "across", "spread R", "separation M", "R / M", title=title)
        for one in curve:
            ratio = one.spread / one.separation if one.separation else None
            values = (one.drift, one.drift_across, one.spread, one.separation, ratio)
            table.add_row(f"{one.length:,}", f"{one.right:.3f}", *map(_short, values))
        console.print(table)
    console.print(
        "Distances are in units of the labels' separation at the training length, nan if there is none. drift: from "
        "the label's mean state there, along the directions in which these differ, and across them."
    )
    if not heads:
        return
    largest = heads[0].largest
    table = Table(
        *("head", "share", "directions", "1 - s", "worst", "beta ~ 0", "by", f"~ {largest:g}", "by"),
        *("|cos| ~ 0", "|cos|"),
    )
    for head in heads:
        table.add_row(
            f"{head.block}.{head.head}",
            f"{head.share:.3f}",
            str(head.directions),
            *map(_short, (head.contraction, head.worst)),
            *(f"{head.near_0:.2f}", _short(head.from_0), f"{head.near_largest:.2f}", _short(head.from_largest)),
            *("-" if value is None else f"{value:.2f}" for value in (head.orthogonal, head.cosine)),
        )
    console.print(table)
    console.print(
        "share: of the labels' separation. s: singular values of the transitions in the directions that hold the label."
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def states_figure(records: dict[str, dict[str, Any]]) -> Figure:
    """Draw the drift, and the ratio R / M of spread and separation, against the length.

    Args:
        records: what `evaluate_states` returned, by the name of the model. Several models have a colour each, and a
            style for each precision; the curves of one model have a colour for each precision.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    styles = {"64-true": ":", "32-true": "-", "bf16-mixed": "--"}
    for i, (name, record) in enumerate(records.items()):
        for j, (precision, curve) in enumerate(record["curves"].items()):
            look = {"color": f"C{i if len(records) > 1 else j}", "marker": ".", "label": f"{name}, {precision}"}
            lengths = [one["length"] for one in curve]
            ratios = [one["spread"] / one["separation"] if one["separation"] else float("nan") for one in curve]
            axes[0].plot(lengths, np.array([one["drift"] for one in curve]), styles[precision], **look)
            axes[1].plot(lengths, np.array(ratios), styles[precision], **look)
    trained = max(record["trained_length"] for record in records.values())
    ticks = sorted({one["length"] for record in records.values() for c in record["curves"].values() for one in c})
    for one_axes, label in zip(axes, ("drift / separation of the labels", "spread R / separation M"), strict=True):
        one_axes.axvspan(0, trained, color="0.92", zorder=0, label=f"trained on (up to {trained})")
        one_axes.set_xscale("log", base=2)
        if any((line.get_ydata() > 0).any() for line in one_axes.lines):  # else an exact model has nothing to draw
            one_axes.set_yscale("log")
        one_axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize="small")
        one_axes.set(xlabel="sequence length", ylabel=label)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="small", loc="outside lower center", ncols=2)
    return figure
