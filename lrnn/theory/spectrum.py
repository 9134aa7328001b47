"""Show where trained models put the eigenvalues of their state transitions."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lrnn.evaluate.contract import LengthTask
from lrnn.evaluate.metrics import IGNORE
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.errors import ConfigError, check_at_least
from lrnn.runtime.instantiate import instantiate
from lrnn.runtime.run_names import name_runs
from lrnn.theory.spectra import eigenvalues, summarize

MOST_NAMED = 8  # tokens that get a colour of their own
SQUARE = 0.02  # eigenvalues that are this close are one dot
LARGEST_DOT = 300  # square points, of a dot that holds all
COLUMNS = (
    "tokens: number of transitions that are multiplied. least: least real part of the eigenvalues e. negative, "
    "complex: shares of them. | |e| - 1 |: mean. horizon: tokens in which the slowest part of the state with negative "
    "or complex eigenvalues falls to half; the slowest of all parts if none has any."
)


def spectrum(
    run_dirs: list[str],
    checkpoint: str = "last",
    sequences: int = 64,
    length: int | None = None,
    window: int = 2,
    out: str | None = None,
) -> None:
    """Print the eigenvalues of the state transitions of trained models, and draw them.

    Args:
        run_dirs: Folders of runs of `python -m lrnn.fit` on a synthetic task; each is a row of the picture.
        checkpoint: Name of the checkpoint in their folders checkpoints, last or best.
        sequences: Number of test sequences that the models read.
        length: Length of these sequences; the longest of training when absent.
        window: Number of tokens whose transitions are multiplied.
        out: File for the picture, such as spectrum.png; none is drawn when absent.
    """
    check_at_least(1, sequences=sequences, window=window)
    runs = name_runs(run_dirs, "run_dirs")
    figure = Figure(figsize=(9, 3.2 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), 2, squeeze=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("run", "layer"):
        table.add_column(heading, overflow="fold")
    for heading in ("tokens", "least", "negative", "complex", "| |e| - 1 |", "horizon"):
        table.add_column(heading, no_wrap=True)
    for (run, folder), row in zip(runs.items(), panels, strict=True):
        model, data = _load(Path(folder), checkpoint)
        tokens, read = _sequences(data, sequences, length)
        try:
            single, products = eigenvalues(model, tokens), eigenvalues(model, tokens, window)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        inside = _windows(read, window).all(-1)
        for count, values, mask in ((1, single, read), (window, products, inside)):
            for name, x in values.items():
                one = summarize([x], mask)
                table.add_row(
                    run, name, f"{count}", f"{one.least:.4f}", f"{one.share_negative:.1%}", f"{one.share_complex:.1%}",
                    f"{one.distance_from_1:.4f}", f"{one.horizon:,.0f}",
                )  # fmt: skip
        title = f"{type(model).__name__} on {type(data).__name__} ({run})"
        _draw_single(row[0], single, tokens, read, title)
        _draw_products(row[1], torch.cat([x[inside].flatten() for x in products.values()]), window)
    Console().print(table)
    print(COLUMNS)
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
        print(f"written to {out}")


def _load(run: Path, checkpoint: str) -> tuple[Any, LengthTask]:
    model = load_model(run / "checkpoints" / f"{checkpoint}.ckpt")
    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"run_dirs: {run} has no config.yaml, it is not the folder of a run")
    config = yaml.safe_load(path.read_text())["data"]
    data = instantiate("data", L.LightningDataModule, config["class_path"], config.get("init_args", {}))
    if not isinstance(data, LengthTask):
        raise ConfigError(f"run_dirs: {run} was trained on {config['class_path']}, which is no synthetic task")
    return model, data


def _sequences(data: LengthTask, sequences: int, length: int | None) -> tuple[Tensor, Tensor]:
    """Return test sequences (B, T), and which of their tokens are no padding (B, T)."""
    length = data.train_lengths[1] if length is None else length
    try:
        batch = next(iter(data.evaluation_batches(length, length, sequences)))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    last = (batch.labels != IGNORE).int().cumsum(1).argmax(1, keepdim=True)
    return batch.inputs, torch.arange(batch.inputs.shape[1]) <= last


def _windows(x: Tensor, window: int) -> Tensor:
    count = x.shape[1] // window
    return x[:, : count * window].unflatten(1, (count, window))


def _draw_single(axes: Axes, values: dict[str, Tensor], tokens: Tensor, read: Tensor, title: str) -> None:
    """Draw where the real parts are, a row for each of the commonest tokens; a larger dot holds a larger share."""
    count = torch.bincount(tokens[read])
    common = sorted(count.nonzero()[:, 0].tolist(), key=lambda token: -int(count[token]))
    rows = {str(token): read & (tokens == token) for token in sorted(common[:MOST_NAMED])}
    if common[MOST_NAMED:]:
        rows["others"] = read & torch.isin(tokens, torch.tensor(common[MOST_NAMED:]))
    for i, mask in enumerate(rows.values()):
        real = torch.cat([(x.real if x.is_complex() else x)[mask].flatten() for x in values.values()])
        places, share = _shares(real.to(torch.complex64))
        axes.scatter(places.real, torch.full(places.shape, i), s=LARGEST_DOT * share, color=f"C{i}")
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.set(title=f"{title}: single tokens", xlabel="eigenvalue", ylabel="token", xlim=(-1.15, 1.15))
    axes.set(ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), list(rows))


def _draw_products(axes: Axes, values: Tensor, window: int) -> None:
    """Draw eigenvalues in the complex plane; a larger dot holds a larger share."""
    circle = torch.linspace(0, 2 * torch.pi, 200)
    axes.plot(circle.cos(), circle.sin(), color="0.7", linewidth=0.8)
    places, share = _shares(values.to(torch.complex64))
    axes.scatter(places.real, places.imag, s=LARGEST_DOT * share)
    axes.set(title=f"products of {window} tokens", xlabel="real part", ylabel="imaginary part", aspect="equal")
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))


def _shares(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the occupied squares of a grid, as complex numbers, and the share of the values in each."""
    squares = torch.view_as_real(values).div(SQUARE).round().unique(dim=0, return_counts=True)
    return torch.view_as_complex(squares[0] * SQUARE), squares[1] / len(values)
