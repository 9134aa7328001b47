"""Draw the next token of each row from its logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

COLDEST = 1e-30  # lower temperatures take the likeliest token, as 0 does: logits divided by them would exceed float32


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the logits.

    Attributes:
        temperature: Temperature of the softmax; 0 always takes the likeliest token.
        top_k: Number of likeliest tokens to draw from; all when absent.
        top_p: Probability of the smallest set of likeliest tokens to draw from, in (0, 1]; 1 means all. The
            probabilities are those after the temperature and `top_k`.
        seed: Seed of the draws, in [0, 2^63). Each prompt has draws of its own, which do not depend on the others.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def uniform(self, stream: int, tokens: int) -> Tensor:
        """Return the uniform numbers (tokens,) in [0, 1) that decide the tokens of a prompt."""
        seed = (self.seed + stream * 0x9E3779B97F4A7C15) % 2**63
        return torch.rand(tokens, generator=torch.Generator().manual_seed(seed))

    def choose(self, logits: Tensor, uniform: Tensor, allowed: Tensor) -> Tensor:
        """Choose a token for each row, (B,), by inversion of the cumulative distribution.

        Args:
            logits: (B, vocabulary).
            uniform: numbers in [0, 1), (B,).
            allowed: mask (B, vocabulary) of the tokens that may be chosen, at least one in each row.
        """
        scores = logits.float().masked_fill(~allowed, -torch.inf)
        if self.temperature < COLDEST:
            return scores.argmax(-1)
        best, tokens = scores.topk(min(self.top_k or scores.shape[-1], scores.shape[-1]))  # in descending order
        p = torch.softmax(best / self.temperature, -1)
        p = p.where(p.cumsum(-1) - p < self.top_p, 0)
        cumulative = p.cumsum(-1)
        chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
        chosen = torch.minimum(chosen, (p > 0).sum(-1) - 1)  # rounding must not choose a token of probability 0
        return tokens.gather(1, chosen[:, None])[:, 0]


GREEDY = Sampling()
