"""Figures in the size of TensorBoard's cards."""

from typing import Any

import lightning as L
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SIZE = (4.2, 2.1)  # inches; a card is twice as wide as high, and 350 to 470 pixels wide
DPI = 240  # pixels per inch, enough for a card on the whole screen


def log_figure(trainer: L.Trainer, tag: str, figure: Figure) -> None:
    """Write a figure, in the size of a card, to those of the trainer's loggers that show figures."""
    for logger in trainer.loggers:
        writer: Any = getattr(logger, "experiment", None)
        if hasattr(writer, "add_figure"):
            writer.add_figure(tag, fit_card(figure), trainer.global_step)


def fit_card(figure: Figure) -> Figure:
    """Return the figure in the size of a card, with the legend of its axes above them, where it covers nothing."""
    figure.set(size_inches=SIZE, dpi=DPI)
    figure.set_layout_engine("constrained")
    for axes in figure.axes:
        axes.tick_params(labelsize="small")
        legend = axes.get_legend()
        if legend is not None:
            legend.remove()
            _legend_above(figure, axes)
    return figure


def _legend_above(figure: Figure, axes: Axes) -> None:
    """Add the legend of the axes in as many columns as the figure is wide enough for."""
    lines, names = axes.get_legend_handles_labels()
    for columns in range(len(names), 0, -1):
        legend = figure.legend(
            lines, names, loc="outside upper left", ncols=columns, frameon=False, fontsize="small", columnspacing=1
        )
        if columns == 1 or legend.get_window_extent().width <= 0.97 * figure.bbox.width:
            return
        legend.remove()
