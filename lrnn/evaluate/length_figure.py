"""Figures of length generalization: scaled accuracy against length, and sequence accuracy against t (Figure 4)."""

from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib.figure import Figure

SEEDS = "thin: one seed, thick: median"


def length_figure(
    curves: Mapping[str, Sequence[Mapping[int, float]]], longest_trained: int, measure: str = "scaled accuracy"
) -> Figure:
    """Draw one colour for each name: a thin line for each of its runs and a thick line for their median.

    Args:
        curves: for each name its runs, each run as {length: accuracy}, all with the same lengths.
        longest_trained: longest training sequence; lengths up to it are shaded.
        measure: name of the accuracy. A scaled accuracy may be negative.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(0, longest_trained, color="0.92", zorder=0, label=f"trained on (up to {longest_trained})")
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    if any(len(runs) > 1 for runs in curves.values()):
        axes.plot([], [], color="0.5", linewidth=0.7, label=SEEDS)
    for i, (name, runs) in enumerate(curves.items()):
        lengths = sorted(runs[0])
        for run in runs:
            axes.plot(lengths, [run[n] for n in lengths], color=f"C{i}", linewidth=0.7, alpha=0.5)
        middle = [median(run[n] for run in runs) for n in lengths]
        style = ("-", "--", "-.", ":")[i % 4]  # so that both of two curves that coincide are visible
        axes.plot(lengths, middle, style, color=f"C{i}", linewidth=2, marker=".", label=name)
    ticks = sorted({n for runs in curves.values() for n in runs[0] if n & (n - 1) == 0} | {longest_trained})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    least = -0.3 if measure == "scaled accuracy" else -0.03
    shortest = min([longest_trained, *(n for runs in curves.values() for n in runs[0])])
    axes.set(xlabel="sequence length", ylabel=measure, ylim=(least, 1.05), xlim=(shortest * 0.8, None))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def prefix_figure(curves: Mapping[str, Sequence[Mapping[int, float]]], longest_trained: float) -> Figure:
    """Draw accuracies against the position t in a sequence, with one colour for each name, as the paper's Figure 4.

    Args:
        curves: for each name its runs, each run as {position: accuracy}: thin lines, and a thick line for the median.
        longest_trained: last position of the longest training sequence; positions up to it are shaded.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(0, longest_trained, color="0.92", zorder=0, label=f"trained on (up to {longest_trained:.0f})")
    if any(len(runs) > 1 for runs in curves.values()):
        axes.plot([], [], color="0.5", linewidth=0.7, label=SEEDS)
    for i, (name, runs) in enumerate(curves.items()):
        positions = sorted(set.intersection(*(set(run) for run in runs)))
        for run in runs if len(runs) > 1 else ():
            axes.plot(positions, [run[t] for t in positions], color=f"C{i}", linewidth=0.7, alpha=0.5)
        middle = [median(run[t] for run in runs) for t in positions]
        style = ("-", "--", "-.", ":")[i % 4]  # so that both of two curves that coincide are visible
        marker = "" if len(positions) > 1 else "."  # a task with one label has one position
        axes.plot(positions, middle, style, color=f"C{i}", linewidth=2, marker=marker, label=name)
    axes.set(xlabel="tokens t", ylabel="share of sequences right up to t", ylim=(-0.03, 1.05), xlim=(0, None))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
