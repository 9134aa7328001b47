"""The specification of the mLSTM: one step of the recurrence. The equations are in op.py."""

import torch
from torch import Tensor

EPS = 1e-6  # added to the denominator, as the authors do

MLSTMState = tuple[Tensor, Tensor, Tensor]  # C (B, H, K, V), n (B, H, K), m (B, H)


def run_token(
    state: MLSTMState, q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, sign: Tensor
) -> tuple[Tensor, MLSTMState]:
    """Run over one token. Shapes: q, k (B, H, 1, K), v (B, H, 1, V), i, log_f, sign (B, H, 1)."""
    C, n, m = state
    i, log_f, sign = i[..., 0], log_f[..., 0], sign[..., 0]
    m_t = torch.maximum(log_f + m, i).detach()
    decay, write = sign * torch.exp(log_f + m - m_t), torch.exp(i - m_t)  # (B, H)
    C = decay[..., None, None] * C + write[..., None, None] * k.mT @ v
    n = decay[..., None] * n + write[..., None] * k[:, :, 0]
    total = (q[:, :, 0] * n).sum(-1).abs()
    h = q @ C / (torch.maximum(total, torch.exp(-m_t)) + EPS)[..., None, None]
    return h, (C, n, m_t)
