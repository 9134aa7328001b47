"""Score a checkpoint by the depth of brackets and the length of expressions.

python -m lrnn.evaluate depth --run_dir=runs/fit/brackets --samples=4096

An expression in brackets takes a stack, which no finite automaton has: what must be remembered grows with the depth.
The length alone does not show where a model fails, because long expressions are deep too. Here both are told apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from lrnn.evaluate.contract import LengthTask
from lrnn.evaluate.record import write_record
from lrnn.evaluate.scoring import right_sequences
from lrnn.evaluate.setting import Precision, choose_device, precision_context, run_config
from lrnn.evaluate.task import check_lengths, check_vocabulary, load_task
from lrnn.models.class_path import import_path
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.errors import ConfigError, check_at_least
from lrnn.runtime.tabular import markdown

LENGTHS = (20, 40, 64, 96, 128, 160, 192, 224, 256)
FEW = 20  # sequences; a cell with fewer is left empty


@runtime_checkable
class NestedTask(Protocol):
    """A task whose sequences are nested."""

    def depth(self, inputs: Tensor) -> Tensor:
        """Return the depth (B,) of sequences of token ids (B, T)."""


def evaluate_depth(
    run_dir: str,
    checkpoint: str | None = None,
    lengths: Sequence[int] = LENGTHS,
    samples: int = 4096,
    bin_size: int = 2,
    evaluation_seed: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Print the scaled accuracy of a model at each depth of brackets and each length.

    Args:
        run_dir: Folder of a run of `python -m lrnn.fit` on a task with brackets.
        checkpoint: Checkpoint of that run; its last one when absent.
        lengths: Lengths to score at.
        samples: Number of sequences of each length.
        bin_size: Number of depths that are scored together.
        evaluation_seed: Seed of the sequences; that of the data module when absent.
        device: Device of the model; auto takes a GPU if there is one.
        precision: Precision of the model's arithmetic; that of the run when absent.
        out: Folder for the scores, depth.json and depth.md, and their figure, depth.png; run_dir/depth when absent.
    """
    check_at_least(1, samples=samples, bin_size=bin_size)
    if not lengths:
        raise ConfigError("lengths: must name at least one")
    checkpoint = checkpoint or str(Path(run_dir, "checkpoints/last.ckpt"))
    model, config = load_model(checkpoint), run_config(checkpoint)
    task = load_task(None, {} if evaluation_seed is None else {"evaluation_seed": evaluation_seed}, config.get("data"))
    if not isinstance(task, NestedTask):
        raise ConfigError(f"run_dir: the run's task, {import_path(type(task))}, has no depth of brackets")
    check_vocabulary(model, task)
    check_lengths(task, [(length, length) for length in lengths])
    place = choose_device(device)
    model.to(place)
    context = precision_context(precision or config.get("trainer", {}).get("precision") or "32-true", place)
    counts: dict[int, dict[int, tuple[int, int]]] = {}  # length -> first depth of a bin -> (sequences, right ones)
    for length in lengths:
        depths, right = [], []
        for inputs, ok in right_sequences(model, task, length, samples, device=place, precision=context):
            depths.append(task.depth(inputs))
            right.append(ok)
        counts[length] = _count_bins(torch.cat(depths), torch.cat(right), bin_size)
    record = {
        "checkpoint": checkpoint,
        "model": import_path(type(model)),
        "task": import_path(type(task)),
        "trained_length": task.train_lengths[1],
        "samples": samples,
        "bin_size": bin_size,
        "evaluation_seed": getattr(task, "evaluation_seed", None),
        "scaled_accuracy": {length: _scaled(counts[length], task) for length in lengths},
        "sequences": {length: {depth: n for depth, (n, _) in bins.items()} for length, bins in counts.items()},
    }
    folder = Path(out or Path(run_dir, "depth"))
    _write(folder, record)
    Console(soft_wrap=True).print("\n".join(_lines(record)), markup=False, highlight=False)
    print(f"written to {folder}: depth.json, depth.md, depth.png")
    return record


def _count_bins(depth: Tensor, right: Tensor, size: int) -> dict[int, tuple[int, int]]:
    """Return {first depth of a bin: (number of sequences, number of right ones)}, by depth."""
    first = depth // size * size
    return {
        int(start): (int((first == start).sum()), int(right[first == start].sum())) for start in first.unique().tolist()
    }


def _scaled(bins: dict[int, tuple[int, int]], task: LengthTask) -> dict[int, float]:
    """Return the scaled accuracy of each bin that has enough sequences."""
    chance = task.chance
    return {start: (right / n - chance) / (1 - chance) for start, (n, right) in bins.items() if n >= FEW}


def _lines(record: dict[str, Any]) -> list[str]:
    """The table, in Markdown: a row a length, a column a bin of depths."""
    scores, size = record["scaled_accuracy"], record["bin_size"]
    starts = sorted({start for bins in scores.values() for start in bins})
    names = [f"depth {start}" if size == 1 else f"depth {start}-{start + size - 1}" for start in starts]
    rows = [
        (f"{length:,}", *(f"{bins[start]:.3f}" if start in bins else "-" for start in starts))
        for length, bins in scores.items()
    ]
    return markdown(("length", *names), rows)


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_record(folder / "depth.json", record)
    explanation = (
        f"Scaled accuracy of {record['model']} on {record['task']}, trained on lengths up to "
        f"{record['trained_length']}, by depth of brackets and length; {record['samples']:,} sequences of each length. "
        f"A dash: fewer than {FEW} sequences."
    )
    (folder / "depth.md").write_text("\n".join([explanation, "", *_lines(record)]) + "\n")
    _figure(record).savefig(folder / "depth.png", dpi=150)


def _figure(record: dict[str, Any]) -> Figure:
    """One line a length, against the depth."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    scores = record["scaled_accuracy"]
    middle = (record["bin_size"] - 1) / 2
    for i, (length, bins) in enumerate(scores.items()):
        starts = sorted(bins)
        shade = f"{0.75 * (1 - i / max(1, len(scores) - 1)):.2f}"
        trained = length <= record["trained_length"]
        axes.plot(
            [start + middle for start in starts],
            [bins[start] for start in starts],
            "--" if trained else "-",
            color=shade,
            marker=".",
            label=f"{length:,}{' (trained on)' if trained else ''}",
        )
    axes.set(xlabel="depth of brackets", ylabel="scaled accuracy", ylim=(-0.15, 1.05))
    axes.legend(title="length", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
