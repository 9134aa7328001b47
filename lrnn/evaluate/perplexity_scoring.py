"""Perplexity against length, from one pass over each sequence that carries the state from segment to segment.

    running(t)   = exp( mean over sequences of  1/t sum_{s <= t} CE_s )       the definition of Figure 5 of the paper
    position(t)  = exp( mean over sequences of  mean of CE_s for s in (t', t] )      t' the length before t, 0 at first

CE_s is the cross-entropy of token s given the s tokens before it: one token precedes the first, the last one of the
sequence before, or EOS. The running mean hardly shows what happens at the end of a long sequence; the perplexity by
position does.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.evaluate.contract import RecurrentModel

TOKENS = 2**12  # that the model reads in one call, over all rows: their logits are the largest tensor


@dataclass(frozen=True)
class Perplexities:
    """Perplexities of one text at increasing lengths."""

    sequences: int
    """Number of sequences that the values are means over."""

    running_at: dict[int, float]
    """For each length, the perplexity of all tokens up to it."""

    position_at: dict[int, float]
    """For each length, the perplexity of the tokens after the length before it."""

    def as_record(self) -> dict[str, Any]:
        """Return the values as they are written to a file."""
        return asdict(self)


@torch.no_grad()
def score_perplexity(
    model: RecurrentModel,
    sequences: Tensor,
    lengths: Sequence[int],
    *,
    segment: int = 2048,
    device: torch.device | str = "cpu",
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Perplexities:
    """Score a model on sequences at each of many lengths.

    Memory does not grow with the length, except that of models whose states do (attention).

    Args:
        model: the model, on `device`. It is scored in evaluation mode and left in the mode that it was in.
        sequences: token ids (N, T + 1), int64: T inputs, and T labels one token later.
        lengths: lengths to score at, each from 1 to T.
        segment: tokens of a sequence read in one call, with the state carried on to the next call.
        device: where the model is.
        precision: makes the context in which the model is called, such as one for mixed precision.

    Raises:
        ValueError: if a length is not in [1, T].
    """
    longest = sequences.shape[1] - 1
    if not lengths or not 1 <= min(lengths) <= max(lengths) <= longest:
        raise ValueError(f"lengths: must lie in [1, {longest}], got {list(lengths)}")
    sequences, lengths = sequences[:, : max(lengths) + 1], sorted(set(lengths))
    training = model.training
    model.eval()
    total = torch.zeros(lengths[-1], dtype=torch.float64)
    for rows in sequences.split(max(1, TOKENS // segment)):
        state = None
        for start in range(0, lengths[-1], segment):
            part = rows[:, start : start + segment + 1].to(device)
            with precision():
                logits, state = model(part[:, :-1], state)
            nats = F.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="none")
            total[start : start + segment] += nats.view(len(rows), -1).double().sum(0).cpu()
            del logits  # before the next segment makes its own
    model.train(training)
    sums = torch.cat([total.new_zeros(1), total.cumsum(0)]) / len(sequences)
    before = [0, *lengths[:-1]]
    return Perplexities(
        len(sequences),
        {n: _exp(sums[n] / n) for n in lengths},
        {n: _exp((sums[n] - sums[m]) / (n - m)) for m, n in zip(before, lengths, strict=True)},
    )


def _exp(nats: Tensor) -> float:
    return float(nats.clamp(max=700).exp())  # keeps a diverged model's value finite
