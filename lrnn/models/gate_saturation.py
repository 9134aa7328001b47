"""Gates pushed onto the end points of their range.

A state-transition eigenvalue is s * g - (s - 1) with a gate g in (0, 1). Training on short sequences leaves
gates at 0.99, say: good for 40 tokens, but a state then fades, or a slow drift fills it, within some hundred.
Both go away when every gate is 0 or 1. So the gradient of

    strength * mean(log g + log(1 - g))

is added to that of the loss. In terms of a logit it does not fade as the gate closes, so the push goes on
until floating point rounds the eigenvalue to its end point (|log g| or |log(1 - g)| past 18 in float32).
It suits tasks whose state must be kept, such as groups; a model that should also forget wants it off.
"""

from typing import Any

import torch
from torch import Tensor

LIMIT = 18.0  # exp(-18) = 1.5e-8, below float32's rounding at 1


class SaturateLogits(torch.autograd.Function):
    """Identity on the logits z of gates g = sigmoid(z)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.strength = strength
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        push = torch.where(z.abs() < LIMIT, torch.tanh(z / 2), 0)  # minus the gradient of log g + log(1 - g)
        return dz - ctx.strength / z.numel() * push, None


class SaturateDecay(torch.autograd.Function):
    """Identity on dt (..., D) of gates g = exp(dt A), A (D, N); the push reaches dt alone."""

    @staticmethod
    def forward(ctx: Any, dt: Tensor, A: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(dt, A)
        ctx.strength = strength
        return dt.view_as(dt)

    @staticmethod
    def backward(ctx: Any, ddt: Tensor) -> tuple[Tensor, None, None]:
        dt, A = ctx.saved_tensors
        x = dt[..., None] * A  # log g
        push = 1 / torch.expm1(-x) - 1  # minus the gradient of x + log(1 - exp(x))
        push = torch.where((x > -LIMIT) & (x < -torch.exp(torch.tensor(-LIMIT))), push, 0)
        return ddt - ctx.strength / x.numel() * (push * A).sum(-1), None, None
