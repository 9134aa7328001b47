"""The specification of the delta product: the recurrence, one token at a time. The equations are in op.py."""

import torch
from torch import Tensor


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run over T tokens of n reflections each.

    Shapes: q (N, T, K), k (N, T n, K), v (N, T n, V), beta (N, T n, 1), log_gate (N, T, 1), state (N, K, V).
    """
    n = k.shape[1] // q.shape[1]
    outputs = []
    for t in range(q.shape[1]):
        if log_gate is not None:
            state = log_gate[:, t, None].exp() * state
        for r in range(t * n, (t + 1) * n):
            k_r = k[:, r, :, None]  # (N, K, 1)
            error = v[:, r, None] - k_r.mT @ state  # (N, 1, V)
            state = state + beta[:, r, None] * k_r @ error
        outputs.append(q[:, t, None] @ state)
    return torch.cat(outputs, dim=1), state
