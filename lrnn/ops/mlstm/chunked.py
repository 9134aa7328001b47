"""One chunk of the mLSTM with matrix products.

Within a chunk that starts from C, n, m, with b_t = sum_{r<=t} log|f_r| and the product g_t of the signs up to t,

    log|D_ts| = b_t - b_s + i~_s  for s <= t        m_t = max(b_t + m, max_s log|D_ts|)
    h_t ~ sum_s (q_t . k_s) D_ts v_s + g_t exp(b_t + m) C^T q_t

and the denominator is the same sum with 1 for v and n for C.
"""

import torch
from torch import Tensor

from lrnn.ops.mlstm.recurrent import EPS, MLSTMState


def run_chunk(
    state: MLSTMState, q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, sign: Tensor
) -> tuple[Tensor, MLSTMState]:
    """Run over one chunk of T tokens.

    Shapes: q, k (B, H, T, K), v (B, H, T, V), i, log_f, sign (B, H, T); T is the size of the chunk.
    """
    C, n, m = state
    T = q.shape[2]
    # in float64, as differences of b would lose digits after a gate that is nearly 0
    b, g = log_f.double().cumsum(-1), sign.cumprod(-1)  # (B, H, T)
    later = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    log_D = (b[..., None] + (i - b)[..., None, :]).to(i.dtype).masked_fill(later, -torch.inf)  # (B, H, T, T)
    log_start = b.to(m.dtype) + m[..., None]
    m_t = torch.maximum(log_start, log_D.amax(-1)).detach()
    D = g[..., None] * g[..., None, :] * torch.exp(log_D - m_t[..., None])
    start = (g * torch.exp(log_start - m_t))[..., None]  # (B, H, T, 1)
    weights = q @ k.mT * D
    total = weights.sum(-1, keepdim=True) + start * (q @ n[..., None])
    h = (weights @ v + start * (q @ C)) / (torch.maximum(total.abs(), torch.exp(-m_t)[..., None]) + EPS)
    last = D[:, :, -1, :, None] * k  # (B, H, T, K)
    return h, (start[:, :, -1:] * C + last.mT @ v, start[:, :, -1] * n + last.sum(2), m_t[..., -1].clone())
