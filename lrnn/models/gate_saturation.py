"""Push gates onto the end points of their range.

A state-transition eigenvalue is s * g - (s - 1) with a gate g in (0, 1). Training on short sequences leaves gates at,
say, 0.99. That is good enough for 40 tokens, but within some hundred tokens a state fades, or a slow drift fills it.
Neither happens if every gate is 0 or 1. So the auxiliary term

    strength * mean(log g + log(1 - g))

is added to the loss (lrnn/models/auxiliary_terms.py). Its gradient with respect to a logit does not fade as the gate
closes. So it pushes until floating point rounds the eigenvalue to its end point. Beyond, where |log g| or |log(1 - g)|
exceeds 18, the term is constant. It suits tasks whose state must be kept, such as groups. A model that should also
forget must do without it.
"""

import math
from typing import Any

import torch
from torch import Tensor

LIMIT = 18.0  # exp(-18) = 1.5e-8, below float32's rounding at 1
NEAREST = math.exp(-LIMIT)


def saturation_of_logits(z: Tensor, strength: float) -> Tensor:
    """Return the term, a scalar, for gates g = sigmoid(z)."""
    return _SaturationOfLogits.apply(z, strength)


def saturation_of_decay(dt: Tensor, A: Tensor, strength: float) -> Tensor:
    """Return the term, a scalar, for gates g = exp(dt A), dt (..., D), A (D, N). Its gradient reaches dt alone."""
    return _SaturationOfDecay.apply(dt, A, strength)


class _SaturationOfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.strength = strength
        distance = z.abs().clamp_max(LIMIT)
        return -strength * (distance + 2 * torch.log1p(torch.exp(-distance))).mean()

    @staticmethod
    def backward(ctx: Any, dterm: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        push = torch.where(z.abs() < LIMIT, torch.tanh(z / 2), 0)  # minus the gradient of log g + log(1 - g)
        return -(ctx.strength / z.numel() * dterm) * push, None


class _SaturationOfDecay(torch.autograd.Function):
    """Keeps dt and A for the backward pass, not the gates, which are N times as large as dt."""

    @staticmethod
    def forward(ctx: Any, dt: Tensor, A: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(dt, A)
        ctx.strength = strength
        x = (dt[..., None] * A).clamp(-LIMIT, -NEAREST)  # log g
        return strength * (x + torch.log(-torch.expm1(x))).mean()

    @staticmethod
    def backward(ctx: Any, dterm: Tensor) -> tuple[Tensor, None, None]:
        dt, A = ctx.saved_tensors
        x = dt[..., None] * A
        outside = (x <= -LIMIT) | (x >= -NEAREST)
        # minus the gradient of x + log(1 - exp(x)), in place; without the clamp, expm1 would overflow, which is slow
        push = x.clamp_(-LIMIT, -NEAREST).neg_().expm1_().reciprocal_().sub_(1).masked_fill_(outside, 0)
        return -(ctx.strength / x.numel() * dterm) * push.mul_(A).sum(-1), None, None
