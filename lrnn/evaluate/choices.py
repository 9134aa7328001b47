"""Multiple choice by likelihood: which of several continuations does a model find the likeliest?

Callbacks and commands score by these functions. Every choice is scored, and none is sampled.

The model is called as a `RecurrentModel` and in no other way, so it may be of any class, and sharded. A prefix is read
again for choices that differ before their last token. lrnn/evaluate/likelihood.py reads every prefix once, but for that
it calls the parts of a `LanguageModel` and picks rows of its states.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import mean
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lrnn.evaluate.contract import RecurrentModel

TOKENS = 2**15  # that the model reads in one call, over all rows


class ChoiceQuestion(Protocol):
    """A question with several answers, as tokens."""

    @property
    def family(self) -> str:
        """Kind of the question."""

    @property
    def length(self) -> int:
        """Difficulty of the question, such as the number of operations that it tells."""

    @property
    def prefix(self) -> list[int]:
        """Tokens that come before every choice, at least one."""

    @property
    def choices(self) -> list[list[int]]:
        """Tokens of each choice, at least one each."""

    @property
    def answer(self) -> int:
        """Number of the right choice."""


@runtime_checkable
class ChoiceTask(Protocol):
    """A data module that has questions of any length."""

    def questions(self, lengths: Sequence[int], samples: int) -> Sequence[ChoiceQuestion]:
        """Return `samples` questions of each family and length, the same at every call and in every run."""


class _Wanted(NamedTuple):
    """A token whose log-likelihood is wanted, after the token at `position` of a row."""

    question: int
    choice: int
    position: int
    token: int


_Row = tuple[tuple[int, ...], list[_Wanted]]


@torch.no_grad()
def score_choices(
    model: RecurrentModel,
    questions: Sequence[ChoiceQuestion],
    *,
    segment: int = 1024,
    device: torch.device | str = "cpu",
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[list[float]]:
    """Return the log-likelihood (nats) of each choice of each question, summed over its tokens.

    Choices that differ in their last token only share a row of the batch. Rows are padded on the right, so the model
    reads padding only after the last token that it is scored on.

    Args:
        model: the model, on `device`. It is scored in evaluation mode and left in the mode that it was in.
        questions: questions of any lengths.
        segment: tokens of a row that are read in one call, with the state carried on to the next call.
        device: where the model is.
        precision: makes the context that the model is called in.
    """
    scores = [[0.0] * len(question.choices) for question in questions]
    training = model.training
    model.eval()
    for rows in _batches(_rows(questions), segment):
        for found, value in _read(model, rows, segment, device, precision):
            scores[found.question][found.choice] += value
    model.train(training)
    return scores


def _rows(questions: Sequence[ChoiceQuestion]) -> list[_Row]:
    """Return the rows that are read, the longest first, with the tokens whose likelihood is wanted in each."""
    rows: dict[tuple[int, tuple[int, ...]], list[_Wanted]] = {}
    for number, question in enumerate(questions):
        for choice, tokens in enumerate(question.choices):
            read = (*question.prefix, *tokens[:-1])
            rows.setdefault((number, read), []).extend(
                _Wanted(number, choice, len(question.prefix) - 1 + i, token) for i, token in enumerate(tokens)
            )
    return sorted(((read, wanted) for (_, read), wanted in rows.items()), key=lambda row: len(row[0]), reverse=True)


def _batches(rows: Sequence[_Row], segment: int) -> Iterator[Sequence[_Row]]:
    first = 0
    while first < len(rows):
        count = max(1, TOKENS // min(segment, len(rows[first][0])))
        yield rows[first : first + count]
        first += count


def _read(
    model: RecurrentModel,
    rows: Sequence[_Row],
    segment: int,
    device: torch.device | str,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Iterator[tuple[_Wanted, float]]:
    longest = len(rows[0][0])
    tokens = torch.tensor([[*read, *[0] * (longest - len(read))] for read, _ in rows])
    state = None
    for start in range(0, longest, segment):
        with precision():
            logits, state = model(tokens[:, start : start + segment].to(device), state)
        inside = [
            (row, one)
            for row, (_, wanted) in enumerate(rows)
            for one in wanted
            if start <= one.position < start + segment
        ]
        if inside:
            at, positions, found = (
                torch.tensor(column, device=device)
                for column in zip(*((row, one.position - start, one.token) for row, one in inside), strict=True)
            )
            yield from zip((one for _, one in inside), _log_likelihood(logits, at, positions, found), strict=True)


def _log_likelihood(logits: Tensor, rows: Tensor, positions: Tensor, tokens: Tensor) -> list[float]:
    values: list[float] = (
        torch.log_softmax(logits[rows, positions].float(), -1).gather(1, tokens[:, None])[:, 0].tolist()
    )
    return values


def accuracy_record(questions: Sequence[ChoiceQuestion], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the accuracies by family and length, as they are written to a file.

    Args:
        questions: the questions.
        scores: log-likelihood of each choice of each question.

    Returns:
        {"accuracy": the mean over families and lengths, "chance": that of a uniform guess among the choices,
        "families": {family: {"chance": ..., "accuracy_at": {length: accuracy}}}, "samples": of a family and length}
    """
    right: dict[str, dict[int, list[bool]]] = {}
    guessed: dict[str, list[float]] = {}
    for question, of_choices in zip(questions, scores, strict=True):
        likeliest = max(range(len(of_choices)), key=of_choices.__getitem__)
        right.setdefault(question.family, {}).setdefault(question.length, []).append(likeliest == question.answer)
        guessed.setdefault(question.family, []).append(1 / len(of_choices))
    families: dict[str, dict[str, Any]] = {
        family: {
            "chance": mean(guessed[family]),
            "accuracy_at": {length: mean(map(float, each)) for length, each in at.items()},
        }
        for family, at in right.items()
    }
    return {
        "accuracy": mean(mean(one["accuracy_at"].values()) for one in families.values()),
        "chance": mean(one["chance"] for one in families.values()),
        "samples": max(len(each) for at in right.values() for each in at.values()),
        "families": families,
    }
