"""Draw the curves of pretraining runs side by side, from their TensorBoard events:

python -m lrnn.sweep.curves --run_dirs='[runs/pretrain_340m, runs/pretrain_340m_01]' --out=results/pretrain
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.run_names import name_runs
from lrnn.runtime.tabular import markdown, write_csv

DRAWN = {"train/loss": "training loss (nats)", "val/perplexity": "validation perplexity"}
SHOWN = (*DRAWN, "train/gradient_norm", "speed/tokens_per_second")
HEADER = ("run", "step", "validation perplexity", "training loss", "largest gradient norm", "tokens/s a GPU")

Curve = dict[int, float]  # values of a scalar by step


def curves(run_dirs: Sequence[str], out: str) -> None:
    """Draw the curves of runs side by side; write curves.csv, curves.png and table.md.

    Args:
        run_dirs: Folders of runs. A curve is named by the part of its run's path in which the folders differ.
        out: Folder to write to.
    """
    runs = {name: read(folder) for name, folder in name_runs(run_dirs, "run_dirs").items()}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    values = [
        {"run": name, "scalar": tag, "step": step, "value": f"{value:.6g}"}
        for name, scalars in runs.items()
        for tag, curve in scalars.items()
        for step, value in curve.items()
    ]
    write_csv(folder / "curves.csv", values)
    _figure(runs).savefig(folder / "curves.png", dpi=150)
    table = "\n".join(markdown(HEADER, [_summary(name, scalars) for name, scalars in runs.items()])) + "\n"
    (folder / "table.md").write_text(table)
    Console(soft_wrap=True).print(f"{table}written to {folder}: table.md, curves.csv, curves.png", markup=False)


def read(folder: str) -> dict[str, Curve]:
    """Return the scalars of a run that are shown. A resumed run may write a step twice: its later value counts.

    Raises:
        ConfigError: if the folder has no TensorBoard events.
    """
    if not list(Path(folder).glob("events.out.tfevents.*")):
        raise ConfigError(
            f"run_dirs: {folder} holds no TensorBoard events; a run with --trainer.logger=false writes none"
        )
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in SHOWN if tag in events.Tags()["scalars"]]
    found = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags}
    return {tag: dict(sorted(curve.items())) for tag, curve in found.items()}


def _figure(runs: dict[str, dict[str, Curve]]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (tag, label) in zip(figure.subplots(1, 2), DRAWN.items(), strict=True):
        for name, scalars in runs.items():
            curve = scalars.get(tag, {})
            axes.plot(
                list(curve), list(curve.values()), label=name, linewidth=1.2, marker="." if len(curve) < 20 else ""
            )
        axes.set(xlabel="step", ylabel=label)
        if tag == "val/perplexity":
            axes.set_yscale("log")
            for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                ticks("{x:,g}")
    axes.legend(fontsize="small", loc="upper right")
    return figure


def _summary(name: str, scalars: dict[str, Curve]) -> tuple[str, ...]:
    loss, perplexity, norm, speed = (list(scalars.get(tag, {}).values()) for tag in SHOWN)
    largest = f"{max(norm, default=0):.2f}" if all(map(math.isfinite, norm)) else "not finite"
    steps = [step for curve in scalars.values() for step in curve]
    return (
        name,
        f"{max(steps, default=0):,}",
        f"{perplexity[-1]:,.1f}" if perplexity else "-",
        f"{loss[-1]:.3f}" if loss else "-",
        largest if norm else "-",
        f"{median(speed):,.0f}" if speed else "-",
    )


def main() -> None:
    command(curves, "lrnn.sweep.curves")


if __name__ == "__main__":
    main()
