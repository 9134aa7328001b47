"""The specification of the delta rule: the recurrence, one token at a time. The equations are in op.py."""

import torch
from torch import Tensor


def recurrent(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run over T tokens. Shapes: q, k (N, T, K), v (N, T, V), beta (N, T, 1), state (N, K, V)."""
    outputs = []
    for t in range(q.shape[1]):
        k_t = k[:, t, :, None]  # (N, K, 1)
        error = v[:, t, None] - k_t.mT @ state  # (N, 1, V)
        state = state + beta[:, t, None] * k_t @ error
        outputs.append(q[:, t, None] @ state)
    return torch.cat(outputs, dim=1), state
