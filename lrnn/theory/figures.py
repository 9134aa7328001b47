"""The figures of `python -m lrnn.theory theorems`: states that converge on 1^k, and states that drift."""

import torch
from matplotlib.figure import Figure

from lrnn.theory.construct import parity_delta_net
from lrnn.theory.limits import RANDOM_LAYERS, changes_on_ones
from lrnn.theory.report import Row

SMALLEST = 1e-8  # drift in the figure: permutations, parity and Z2 have none


def convergence_figure() -> Figure:
    """Draw how much the states of layers change at token k of 1^k (Theorem 1)."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, make) in enumerate(RANDOM_LAYERS.items()):
        for seed in range(3):
            torch.manual_seed(seed)
            changes = changes_on_ones(make(), 2, 2**14)
            label = f"{name} [0, 1], 3 random layers" if seed == 0 else None
            axes.plot(range(1, len(changes) + 1), changes, color=f"C{i}", linewidth=1, label=label)
    changes = changes_on_ones(parity_delta_net(), 2, 2**14)
    axes.plot(
        range(1, len(changes) + 1), changes, color="C3", linewidth=2, label="DeltaNet, constructed parity, beta = 2"
    )
    for name, bits in (("float32", 24), ("bfloat16", 8)):
        axes.axhline(2.0**-bits, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(f"rounding of {name}", (300, 2.0**-bits), fontsize="x-small", va="bottom")
    axes.set(xscale="log", yscale="log", ylim=(1e-9, 3), xlabel="number k of ones read")
    axes.set_ylabel("change of the state, |h(k) - h(k-1)| / max |h|")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def distance_figure(rows: dict[str, list[Row]]) -> Figure:
    """Draw the drift of the explicit RNN against the length, beside half the least distance of two states."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, dtype in zip(panels, ("float32", "bfloat16"), strict=True):
        for i, row in enumerate(rows[f"Explicit linear RNN, {dtype}"]):
            drift = row.result.drift
            if max(drift.values(), default=0) > SMALLEST:
                style = "-" if row.theorem == "3" else "--"
                label = f"{row.name}, {row.made_of}"
                axes.plot([*drift], [*drift.values()], style, color=f"C{i // 2}", marker=".", label=label)
                half = row.result.least_distance[0] / 2
                axes.axhline(half, color=f"C{i // 2}", linewidth=0.5, linestyle=":")
        axes.set(xscale="log", yscale="log", ylim=(SMALLEST, None), xlabel="letters", title=f"state in {dtype}")
    panels[0].set_ylabel("drift; dotted: half the least distance")
    panels[1].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
