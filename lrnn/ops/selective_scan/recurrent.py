"""The specification of the selective scan: the recurrence, one token at a time. The equations are in op.py."""

import torch
from torch import Tensor


def recurrent(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, s: int) -> tuple[Tensor, Tensor]:
    """Run over T tokens. Shapes: u, dt (T, batch, D), A (N, D), B, C (T, batch, N), h (batch, N, D)."""
    outputs = []
    for u_t, dt_t, B_t, C_t in zip(u, dt, B, C, strict=True):
        a_t = s * torch.exp(dt_t[:, None] * A) - (s - 1)  # (batch, N, D)
        h = a_t * h + (dt_t * u_t)[:, None] * B_t[:, :, None]
        outputs.append((C_t[:, :, None] * h).sum(1))
    return torch.stack(outputs), h
