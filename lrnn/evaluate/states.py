"""Measure how exactly a trained model keeps the states that its task distinguishes.

python -m lrnn.evaluate states --run_dir=runs/fit/s3 --lengths=[32,512,16384]
python -m lrnn.evaluate states --run_dir=[runs/a,runs/b] --out=runs/states
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from lrnn.evaluate.contract import LengthTask
from lrnn.evaluate.metrics import IGNORE
from lrnn.evaluate.record import write_record
from lrnn.evaluate.reflections import Head, by_token, has_reflections, reflections_of, summarize
from lrnn.evaluate.setting import choose_device, precision_context
from lrnn.evaluate.spread import Means, drift, growth_exponent, reference_means, spread_and_separation
from lrnn.evaluate.states_report import StatesAtLength, print_states, states_figure
from lrnn.evaluate.task import check_lengths, check_vocabulary, load_task
from lrnn.models import AttentionMixer, LanguageModel
from lrnn.models.class_path import import_path
from lrnn.models.token_matrices import MatrixProductMixer
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.errors import ConfigError, check_at_least
from lrnn.runtime.run_names import name_runs

Precision = Literal["64-true", "32-true", "bf16-mixed"]
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
ROWS = 512  # sequences read at once


def evaluate_states(
    run_dir: list[str] | str,
    checkpoint: str | None = None,
    lengths: Sequence[int] = LENGTHS,
    samples: int = 256,
    samples_per_label: int = 64,
    precisions: Sequence[Precision] = ("64-true", "32-true", "bf16-mixed"),
    segment: int = 1024,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: str | None = None,
) -> dict[str, Any]:
    """Print how far states drift with the length, and which gates, keys and directions are exact.

    A state is all the numbers that the layers carry from token to token, except those of convolutions. The first table
    is for any recurrent model. The second is for layers of DeltaNet and DeltaProduct; it is computed in 64 bits.

    Args:
        run_dir: Folder of a run of `python -m lrnn.fit` on a task whose last label determines the state; a list
            compares several.
        checkpoint: Checkpoint of that run; its last one when absent.
        lengths: Lengths of the sequences.
        samples: Number of sequences of each length. Spread and separation need two with the same label.
        samples_per_label: Number of sequences for each possible label, by which the mean states at the longest training
            length are estimated.
        precisions: Precisions of the model's arithmetic. In bf16-mixed the state itself is in float32. Without rounding
            (64-true), states drift because they were not learned exactly.
        segment: Tokens of a sequence read in one call of the model, with the state carried on to the next.
        device: Device of the model; auto takes a GPU if there is one.
        out: Folder for the numbers of each run, states.json, and their figure, states.png; run_dir/states when absent.
            It must be set for several runs.

    Returns:
        The numbers of each run, by its name: the part of its path in which it differs from the others.
    """
    check_at_least(1, samples=samples, samples_per_label=samples_per_label, segment=segment)
    if not lengths or not precisions:
        raise ConfigError("lengths, precisions: must name at least one each")
    run_dirs = [run_dir] if isinstance(run_dir, str) else list(run_dir)
    if len(run_dirs) != 1 and (checkpoint or not out):
        raise ConfigError("run_dir: must be one folder, unless --out is set and --checkpoint is not")
    place, folder_of_results = choose_device(device), Path(out or Path(run_dirs[0], "states"))
    records = {}
    for name, folder in name_runs(run_dirs, "run_dir").items():
        path = Path(folder, "config.yaml")
        if not path.is_file():
            raise ConfigError(f"run_dir: {folder} is not the folder of a run: it has no config.yaml")
        file = checkpoint or str(Path(folder, "checkpoints/last.ckpt"))
        model, data = load_model(file), _task_of(path)
        if len(run_dirs) > 1:
            print(name)
        measured = _measure_model(model, data, lengths, samples, samples_per_label, precisions, segment, place)
        records[name] = {"checkpoint": file, **measured}
        write_record(folder_of_results / "states.json", records)  # after each run, since the next one may fail
        states_figure(records).savefig(folder_of_results / "states.png", dpi=150)
    print(f"written to {folder_of_results}: states.json, states.png")
    return records


def _measure_model(
    model: LanguageModel,
    task: LengthTask,
    lengths: Sequence[int],
    samples: int,
    samples_per_label: int,
    precisions: Sequence[Precision],
    segment: int,
    device: torch.device,
) -> dict[str, Any]:
    """Measure a model, print the tables of it, and return the numbers."""
    _check_recurrent(model)
    check_vocabulary(model, task)
    trained = task.train_lengths[1]
    check_lengths(task, [(length, length) for length in (trained, *lengths)])
    read = partial(_read, task=task, segment=segment, device=device)
    enough = max(samples, samples_per_label * round(1 / (task.chance or 1)))
    curves: dict[str, list[StatesAtLength]] = {}
    for precision in precisions:
        ready, context = _in_precision(model.to(device), precision, device)
        states, labels, _ = read(ready, trained, enough, precision=context, validation=True)
        means = reference_means(states, labels)
        curves[precision] = [_measure(read(ready, n, samples, precision=context), n, means) for n in lengths]
        if precision == precisions[0]:
            of_labels = means
    heads, tokens = (
        _reflections(model.double(), task, trained, device, of_labels) if has_reflections(model) else ([], {})
    )
    exponents = {name: _exponent(curve, trained) for name, curve in curves.items()}
    print_states(curves, exponents, heads)
    return {
        "model": import_path(type(model)),
        "task": import_path(type(task)),
        "trained_length": trained,
        "samples": samples,
        "reference_samples": enough,
        "separation": of_labels.separation,
        "curves": {name: [asdict(one) for one in curve] for name, curve in curves.items()},
        "growth_exponent": exponents,
        "heads": [asdict(head) for head in heads],
        "tokens": tokens,
    }


def _task_of(config: Path) -> LengthTask:
    return load_task(None, {}, yaml.safe_load(config.read_text()).get("data"))


def _check_recurrent(model: LanguageModel) -> None:
    for block in model.backbone.blocks:
        if isinstance(block.mixer, AttentionMixer):
            raise ConfigError(
                f"checkpoint: {import_path(type(model))} has attention, whose state grows with the length"
            )


def _in_precision(
    model: LanguageModel, precision: Precision, device: torch.device
) -> tuple[LanguageModel, Callable[[], AbstractContextManager[Any]]]:
    """Return the model, copied if its weights get another dtype, and the context to call it in."""
    if precision == "64-true":
        return copy.deepcopy(model).double(), precision_context("32-true", device)
    return model.float(), precision_context(precision, device)


@torch.no_grad()
def _read(
    model: LanguageModel,
    length: int,
    samples: int,
    *,
    task: LengthTask,
    segment: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[Any]],
    validation: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the states (N, D), the last labels (N,), and whether the model answers them, after sequences of a length.

    Raises:
        ConfigError: if the last labels of the sequences are not all at the same token.
    """
    states, labels, right = [], [], []
    for batch in task.evaluation_batches(length, length, samples, validation, tokens=ROWS * length):
        inputs, label = _up_to_the_last_label(batch.inputs, batch.labels)
        state = None
        for part in inputs.split(segment, 1):
            with precision():
                logits, state = model(part.to(device), state)
        states.append(torch.cat(recurrent_states(model, state), 1))
        labels.append(label.to(device))
        right.append(logits[:, -1].argmax(-1) == labels[-1])
    return torch.cat(states), torch.cat(labels), torch.cat(right)


def _up_to_the_last_label(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    columns = torch.arange(labels.shape[1])
    last = torch.where(labels != IGNORE, columns, -1).max(1).values
    if (last != last[0]).any() or last[0] < 0:
        raise ConfigError(
            "run_dir: the task's sequences of one length must all have their last label at the same token"
        )
    return inputs[:, : last[0] + 1], labels[:, last[0]]


def recurrent_states(model: LanguageModel, state: Any) -> list[Tensor]:
    """Return what each block carries on from token to token, flattened: (B, D) a block. Convolutions are left out.

    Mixers with a convolution have its state first.
    """
    found = []
    for block, (mixer_state, _) in zip(model.backbone.blocks, state, strict=True):
        if isinstance(block.mixer, MatrixProductMixer):
            # nothing reads the norm of a product of matrices outside the unit ball, which may grow or fade
            found.append(F.normalize(mixer_state[-1].flatten(1)))
        else:
            tensors = mixer_state[1:] if hasattr(block.mixer, "conv") else mixer_state
            found.append(torch.cat([x.flatten(1) for x in tensors], 1))
    return found


def _measure(read: tuple[Tensor, Tensor, Tensor], length: int, means: Means) -> StatesAtLength:
    states, labels, right = read
    R, M = spread_and_separation(states, labels)
    distances = (*drift(states, labels, means), R, M)
    unit = means.separation or float("nan")  # the labels' states need not lie apart, if the task was not learned
    return StatesAtLength(length, float(right.double().mean()), *(x / unit for x in distances))


def _exponent(curve: Sequence[StatesAtLength], trained: int) -> float | None:
    """Return the power of the length with which the drift grows, from the training length until states overlap."""
    points = [one for one in curve if one.length >= trained and one.drift < 0.3]
    return growth_exponent([one.length for one in points], [one.drift for one in points])


def _reflections(
    model: LanguageModel, task: LengthTask, length: int, device: torch.device, means: Means
) -> tuple[list[Head], dict[str, Any]]:
    """Summarize the heads of all layers, and return the gates and keys of each token by the number of its layer."""
    batch = next(iter(task.evaluation_batches(length, length, 256, validation=True, tokens=256 * length)))
    heads: list[Head] = []
    tokens = {}
    known = means.states[~means.states[:, 0].isnan()]
    of_blocks = dict(zip(range(len(model.backbone.blocks)), _split(model, known), strict=True))
    for layer in reflections_of(model, batch.inputs.to(device)):
        H, K = layer.k.shape[2:]
        heads += summarize(layer, of_blocks[layer.block].unflatten(1, (H, K, -1)))
        tokens[str(layer.block)] = by_token(layer)
    return heads, tokens


def _split(model: LanguageModel, states: Tensor) -> Iterator[Tensor]:
    """Split states (N, D) into those of the blocks."""
    with torch.no_grad():
        _, state = model(torch.zeros(1, 1, dtype=torch.long, device=states.device))
    yield from states.split([x.shape[1] for x in recurrent_states(model, state)], 1)
