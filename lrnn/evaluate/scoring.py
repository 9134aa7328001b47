"""The accuracy of a model on a task's evaluation sequences. Callbacks and commands all score by this function."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lrnn.evaluate.contract import LabelledTokens, LengthTask, RecurrentModel
from lrnn.evaluate.metrics import IGNORE, LabelAccuracy, PrefixAccuracy, ScaledAccuracy, SequenceAccuracy

TOKENS = 2**17  # tokens that the model reads in one call, over all rows of a batch
SEGMENT = 1024  # tokens of a sequence that it reads in one call
# On a CPU the activations of a call stay in its cache. Measured with the models of `make parity`: twice as many tokens
# in a call, or twice as long a segment, take 2% to 15% more time.
CPU_TOKENS, CPU_SEGMENT = 2**13, 32


@dataclass(frozen=True)
class Scores:
    """Accuracies over a set of sequences."""

    scaled_accuracy: float
    """Accuracy over the scored tokens; 0 is a blind guess, 1 is always right."""

    accuracy: float
    """Share of the scored tokens that are right."""

    sequence_accuracy: float
    """Share of the sequences whose scored tokens are all right."""


@dataclass(frozen=True)
class PrefixScores:
    """Accuracies at each position t of sequences of one length, as in the paper's Figure 4."""

    positions: list[int]
    """The positions that have a label; the first token of a sequence has position 0."""

    accuracy: list[float]
    """Share of the labels at t that are right."""

    sequence_accuracy: list[float]
    """Share of the sequences whose labels up to t are all right."""


def score(
    model: RecurrentModel,
    task: LengthTask,
    shortest: int,
    longest: int,
    samples: int,
    *,
    validation: bool = False,
    segment: int | None = None,
    device: torch.device | str = "cpu",
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    rank: int = 0,
    ranks: int = 1,
) -> Scores:
    """Score a model on `samples` sequences of lengths from `shortest` to `longest`.

    Args:
        model: the model, on `device`. It is scored in evaluation mode and left in the mode that it was in.
        task: the data module that has the sequences.
        shortest: shortest length.
        longest: longest length.
        samples: number of sequences.
        validation: whether to score the validation set, which has other sequences than the test set.
        segment: tokens of a sequence read in one call, with the state carried on to the next call, so that memory does
            not grow with the length; 1,024 when absent, and 32 on a CPU, which is faster there.
        device: where the model is.
        precision: makes the context that the model is called in, such as one for mixed precision.
        rank: this process's number among those that share the sequences.
        ranks: number of those processes. Each returns the scores over all sequences.

    Raises:
        ValueError: if the task has no sequences of these lengths.
    """
    scaled, labelled, whole = ScaledAccuracy(task.chance), LabelAccuracy(), SequenceAccuracy()
    _count(
        [scaled, labelled, whole],
        model,
        task,
        (shortest, longest),
        samples,
        validation=validation,
        segment=segment,
        device=device,
        precision=precision,
        rank=rank,
        ranks=ranks,
    )
    return Scores(float(scaled.compute()), float(labelled.compute()), float(whole.compute()))


def score_prefixes(
    model: RecurrentModel, task: LengthTask, length: int, samples: int, *, validation: bool = False, **options: Any
) -> PrefixScores:
    """Score a model at each position of `samples` sequences of one length.

    Args:
        model: as for `score`.
        task: as for `score`.
        length: length of the sequences.
        samples: number of sequences.
        validation: as for `score`.
        **options: segment, device, precision, rank and ranks, as for `score`.

    Raises:
        ValueError: if the task has no sequences of this length.
    """
    metric = PrefixAccuracy()
    _count([metric], model, task, (length, length), samples, validation=validation, **options)
    # torchmetrics makes a tensor of one value a scalar
    positions, accuracy, sequence_accuracy = (values.flatten().tolist() for values in metric.compute())
    return PrefixScores(positions, accuracy, sequence_accuracy)


@torch.no_grad()
def _count(
    metrics: Sequence[Metric],
    model: RecurrentModel,
    task: LengthTask,
    lengths: tuple[int, int],
    samples: int,
    *,
    validation: bool,
    segment: int | None = None,
    device: torch.device | str = "cpu",
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Update the metrics with a model's predictions; the arguments are those of `score`."""
    metrics = [metric.to(device) for metric in metrics]
    training = model.training
    model.eval()
    tokens = TOKENS
    if segment is None:
        tokens, segment = (CPU_TOKENS, CPU_SEGMENT) if torch.device(device).type == "cpu" else (TOKENS, SEGMENT)
    rows = ranks * (tokens // min(lengths[1], segment))
    for batch in task.evaluation_batches(*lengths, samples, validation, tokens=rows * lengths[1]):
        inputs, labels = _share(batch, rank, ranks)
        predictions = _predict(model, inputs, labels != IGNORE, segment, device, precision)
        for metric in metrics:
            metric.update(predictions, labels.to(device))
    model.train(training)


@torch.no_grad()
def right_sequences(
    model: RecurrentModel,
    task: LengthTask,
    length: int,
    samples: int,
    *,
    device: torch.device | str = "cpu",
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids (B, T) of test sequences, and whether all labels of each are predicted (B,), both on the CPU.

    Args:
        model, task, device, precision: as for `score`. The model is left in evaluation mode.
        length: length of the sequences.
        samples: number of sequences.
    """
    tokens, segment = (CPU_TOKENS, CPU_SEGMENT) if torch.device(device).type == "cpu" else (TOKENS, SEGMENT)
    model.eval()
    rows = tokens // min(length, segment)
    for batch in task.evaluation_batches(length, length, samples, False, tokens=rows * length):
        scored = batch.labels != IGNORE
        predictions = _predict(model, batch.inputs, scored, segment, device, precision).cpu()
        yield batch.inputs, ((predictions == batch.labels) | ~scored).all(1)


def _share(batch: LabelledTokens, rank: int, ranks: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels of this rank's rows, or of a row that is not scored if no row is left for this rank.

    So all ranks call the model equally often, as they must if it is sharded.
    """
    if rank < len(batch.inputs):
        return batch.inputs[rank::ranks], batch.labels[rank::ranks]
    return batch.inputs[:1], torch.full_like(batch.labels[:1], IGNORE)


def _predict(
    model: RecurrentModel,
    inputs: Tensor,
    scored: Tensor,
    segment: int,
    device: torch.device | str,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """The likeliest token of the whole vocabulary at each scored position (B, T); at others it may be any."""
    read: Callable[..., Any] = model
    select = "positions" in inspect.signature(getattr(model, "forward", model)).parameters
    state, predictions = None, []
    for part, here in zip(inputs.split(segment, 1), scored.split(segment, 1), strict=True):
        part = part.to(device)
        positions = _positions(here) if select else None
        with precision():
            if positions is None:
                logits, state = read(part, state)
                predictions.append(logits.argmax(-1))
            else:
                positions = positions.to(device)
                logits, state = read(part, state, positions=positions)
                predictions.append(torch.zeros_like(part).scatter_(1, positions, logits.argmax(-1)))
    return torch.cat(predictions, 1)


def _positions(scored: Tensor) -> Tensor | None:
    """Positions (B, P) of the scored tokens (B, T) of each sequence, and of others where it has fewer than P.

    P is the number of the sequence that has most, and may be 0. None if that is more than half of the tokens.
    """
    most = int(scored.sum(1).max())
    if 2 * most > scored.shape[1]:
        return None
    return scored.byte().topk(most, dim=1).indices


def as_record(test: Scores, at: Mapping[int, Scores]) -> dict[str, Any]:
    """Return the scores as they are written to a file.

    Args:
        test: scores on the test set.
        at: scores at each length.

    Returns:
        {"scaled_accuracy": on the test set, "scaled_accuracy_at": {length: scaled accuracy}, ...}, and the same for
        `accuracy` and `sequence_accuracy`.
    """
    record: dict[str, Any] = {}
    for name in vars(test):
        record[name] = getattr(test, name)
        record[f"{name}_at"] = {length: getattr(scores, name) for length, scores in at.items()}
    return record
