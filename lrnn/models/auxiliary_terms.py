"""Auxiliary terms of the training loss: scalars that mixers add to the cross-entropy, by name.

A mixer writes its terms into a dictionary while it runs (lrnn/models/mixer.py), the block returns them, and the model
sums them over the blocks. The loss that a training step returns has the value of the cross-entropy, so that runs with
and without terms can be compared. Its gradient is that of

    cross-entropy + sum of all terms

The terms receive the gradient that arrives at the loss. So whatever scales the loss scales them too: the number of
micro-batches of a step, the loss scale of float16, the mean over ranks.
"""

from typing import Any

import torch
from torch import Tensor

Terms = dict[str, Tensor]


def merge(terms: Terms, more: Terms) -> Terms:
    """Return the terms of both; terms of the same name are summed."""
    return terms | {name: terms[name] + term if name in terms else term for name, term in more.items()}


def with_gradient_of_sum(value: Tensor, *terms: Tensor) -> Tensor:
    """Return a scalar with the value of `value` and the gradient of the sum of `terms`, all scalars."""
    return _WithGradientOfSum.apply(value.detach(), *terms)


class _WithGradientOfSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *terms: Tensor) -> Tensor:
        ctx.count = len(terms)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        return None, *[dloss] * ctx.count
