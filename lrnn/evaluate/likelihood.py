"""Log-likelihoods of continuations. A prefix that several of them share is read once.

    prefix    "The capital of France is"     read once: its state and its last logits
    choices   " Paris"   " Lyon"   " Rome"   read side by side, each from a copy of that state

Four choices after a long prefix take little more time than one. Reading each whole text would take four times as long.
lrnn/evaluate/choices.py scores choices for callbacks, with any model.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrnn.models.decoding import Precision, read_prompts, select_rows
from lrnn.models.language_model import LanguageModel

TOKENS = 2**12  # of continuations that the model reads in one call, over all rows: it makes all their logits


class Continuation(NamedTuple):
    """Tokens to score, and the tokens before them."""

    prefix: Sequence[int]
    """Tokens that are read first, at least one."""

    tokens: Sequence[int]
    """Tokens whose log-likelihood is wanted; it is 0 if there are none."""


class Likelihood(NamedTuple):
    """Score of a continuation."""

    log_likelihood: float
    """Sum over its tokens, in nats."""

    is_greedy: bool
    """Whether each token is the likeliest one."""


@torch.no_grad()
def score_continuations(
    model: LanguageModel,
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 64,
    precision: Precision = nullcontext,
    done: Callable[[int], Any] = lambda count: None,
) -> list[Likelihood]:
    """Return the likelihood of each continuation, in their order.

    Args:
        model: Model in evaluation mode.
        continuations: Prefixes and tokens. Equal prefixes are read once, wherever they stand in the list.
        batch_size: Number of rows that the model reads together.
        precision: Makes the context in which the model is called.
        done: Function that is called with the number of continuations that were scored since the last call.

    Raises:
        ValueError: if a prefix is empty.
    """
    of_prefix: dict[tuple[int, ...], list[int]] = {}
    for number, one in enumerate(continuations):
        of_prefix.setdefault(tuple(one.prefix), []).append(number)
    prefixes = sorted(of_prefix, key=len)  # a batch reads fastest if its prefixes have the same length
    scores: dict[int, Likelihood] = {}
    for batch in _slices(prefixes, batch_size):
        with precision():
            read = read_prompts(model, batch)
        for rows, logits, state in read:
            wanted = [(i, number) for i, row in enumerate(rows) for number in of_prefix[batch[row]]]
            wanted.sort(key=lambda pair: len(continuations[pair[1]].tokens))
            for some in _slices(wanted, batch_size):
                index = torch.tensor([i for i, _ in some], device=logits.device)
                tokens = [continuations[number].tokens for _, number in some]
                with precision():
                    values = _score(model, tokens, logits[index], select_rows(state, index))
                scores.update(zip((number for _, number in some), values, strict=True))
                done(len(some))
    return [scores[number] for number in range(len(continuations))]


def _slices(items: Sequence[Any], size: int) -> list[Any]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _score(model: LanguageModel, rows: Sequence[Sequence[int]], logits: Tensor, state: Any) -> list[Likelihood]:
    """Score one continuation a row, from the logits (B, vocabulary) and the state after its prefix.

    Shorter rows are padded on the right, where nothing is scored.
    """
    longest = max(len(tokens) for tokens in rows)
    ids = torch.tensor(
        [[*tokens, *[0] * (longest - len(tokens))] for tokens in rows], device=logits.device, dtype=torch.int64
    )
    lengths = torch.tensor([len(tokens) for tokens in rows], device=logits.device)
    is_scored = torch.arange(longest, device=logits.device) < lengths[:, None]
    total, greedy = torch.zeros(len(rows), device=logits.device, dtype=torch.float64), is_scored.new_ones(len(rows))
    segment, start, predictions = max(1, TOKENS // len(rows)), 0, logits[:, None]  # of the tokens from `start` on
    while start < longest:
        end = start + predictions.shape[1]
        label, mask = ids[:, start:end], is_scored[:, start:end]
        found = torch.log_softmax(predictions.float(), -1).gather(-1, label[..., None])[..., 0]
        total += found.where(mask, 0).double().sum(1)
        greedy &= ((predictions.argmax(-1) == label) | ~mask).all(1)
        if end < longest:
            predictions, state = model(ids[:, end - 1 : min(end - 1 + segment, longest - 1)], state)
        start = end
    return [Likelihood(*pair) for pair in zip(total.tolist(), greedy.tolist(), strict=True)]
