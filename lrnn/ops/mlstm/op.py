"""The mLSTM: a matrix memory with an exponential input gate and one decay a head (Beck et al. 2024, Section 2.3).

    C_t = f_t C_{t-1} + i_t k_t v_t^T        n_t = f_t n_{t-1} + i_t k_t        i_t = exp(i~_t)
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)                                       f_t = s sigmoid(f~_t) - (s - 1)

Glossary, one head: q, k, n of size K; v, h of size V; the memory C is (K, V); the gates i and f are scalars, and
f, the only eigenvalue of the transition, lies in (0, 1) for s = 1. The forms below sum logarithms of f, which rules
out negative ones; so sign and magnitude go separate ways (Grazzi et al. 2025, Appendix E.4), and s = 2 opens (-1, 1).

What grows is kept in check: with m_t = max(log|f_t| + m_{t-1}, i~_t), C and n are held as multiples of exp(m), so that
no exponential exceeds 1, and the 1 in the denominator becomes exp(-m). The outputs don't depend on m, so no gradient
goes through it.

Two forms of the same function:
- `recurrent` is the specification, one token at a time;
- `chunked` works on `chunk_size` tokens with matrix products. Within a chunk that starts from C, n, m, with
  b_t = sum_{r<=t} log|f_r| and the product g_t of the signs up to t,
      log|D_ts| = b_t - b_s + i~_s  for s <= t        m_t = max(b_t + m, max_s log|D_ts|)
      h_t ~ sum_s (q_t . k_s) D_ts v_s + g_t exp(b_t + m) C^T q_t        and the denominator with n and 1 for C and v.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.eigenvalue_range import range_scale
from lrnn.ops.common.form import Form, choose_form

EPS = 1e-6  # added to the denominator, as the authors do
SMALLEST = 1e-6  # |f~| below this counts as this: the logarithm of f = 0 does not exist

MLSTMState = tuple[Tensor, Tensor, Tensor]  # C (B, H, K, V), n (B, H, K), m (B, H)


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    eigenvalue_range: Sequence[float],
    initial_state: MLSTMState | None = None,
    *,
    form: Form = "auto",
    chunk_size: int = 64,
) -> tuple[Tensor, MLSTMState]:
    """Run the mLSTM over T tokens.

    Args:
        q, k: queries and keys, (B, T, H, K).
        v: values, (B, T, H, V).
        input_gate, forget_gate: what the gates are made from, i~ and f~, (B, T, H).
        eigenvalue_range: of the forget gate, (0, 1) or (-1, 1).
        initial_state: C, n, m; an empty memory when absent.
        form: `recurrent`, `chunked`, or `auto`: recurrent for a single token, else chunked.
        chunk_size: tokens a chunk.

    Returns:
        outputs (B, T, H, V) in the dtype of `v`, and the final state, held in float32 (float64 when the inputs are).
    """
    s = range_scale(eigenvalue_range)
    gates = input_gate.shape == forget_gate.shape == q.shape[:3]
    if q.shape != k.shape or q.shape[:3] != v.shape[:3] or not gates:
        raise ValueError(
            "mlstm: q, k, v and the gates must be (B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H), (B, T, H); "
            f"got {', '.join(str(tuple(x.shape)) for x in (q, k, v, input_gate, forget_gate))}"
        )
    (B, T, H, K), V = q.shape, v.shape[-1]
    if initial_state is not None and initial_state[0].shape != (B, H, K, V):
        raise ValueError(f"mlstm: the initial memory must be {(B, H, K, V)}, got {tuple(initial_state[0].shape)}")
    if T == 0:
        raise ValueError("mlstm: the sequence must hold at least one token")
    form = choose_form("mlstm", form, [v, q, k, input_gate, forget_gate], modules=())
    out_dtype, dtype = v.dtype, torch.promote_types(v.dtype, torch.float32)
    # (B, T, H, ...) -> (B, H, T, ...)
    q, k, v, i, f = (x.to(dtype).transpose(1, 2) for x in (q, k, v, input_gate, forget_gate))
    if initial_state is None:
        initial_state = v.new_zeros(B, H, K, V), v.new_zeros(B, H, K), v.new_full((B, H), -torch.inf)
    state = tuple(x.to(dtype) for x in initial_state)
    log_f, sign = _logarithm_and_sign(f, s)
    with torch.autocast(v.device.type, enabled=False):  # the state stays in float32
        size = 1 if form == "recurrent" else chunk_size
        advance = _token if size == 1 else _chunk
        outputs = []
        for start in range(0, T, size):
            c = slice(start, start + size)
            h, state = advance(*(x[:, :, c] for x in (q, k, v, i, log_f, sign)), *state)
            outputs.append(h)
    return torch.cat(outputs, 2).transpose(1, 2).to(out_dtype), state  # type: ignore[return-value]


def _logarithm_and_sign(f: Tensor, s: int) -> tuple[Tensor, Tensor]:
    """log|gate| and sign of gate = s sigmoid(f) - (s - 1)."""
    if s == 1:
        return F.logsigmoid(f), torch.ones_like(f)
    x = -f.abs().clamp(min=SMALLEST)  # the gate is tanh(f / 2)
    return torch.log(-torch.expm1(x)) - torch.log1p(torch.exp(x)), torch.where(f < 0, -1.0, 1.0).to(f.dtype)


def _token(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, sign: Tensor, C: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, MLSTMState]:
    """The specification. q, k (B, H, 1, K), v (B, H, 1, V), i, log_f, sign (B, H, 1), C (B, H, K, V), n, m."""
    i, log_f, sign = i[..., 0], log_f[..., 0], sign[..., 0]
    m_t = torch.maximum(log_f + m, i).detach()
    decay, write = sign * torch.exp(log_f + m - m_t), torch.exp(i - m_t)  # (B, H)
    C = decay[..., None, None] * C + write[..., None, None] * k.mT @ v
    n = decay[..., None] * n + write[..., None] * k[:, :, 0]
    total = (q[:, :, 0] * n).sum(-1).abs()
    h = q @ C / (torch.maximum(total, torch.exp(-m_t)) + EPS)[..., None, None]
    return h, (C, n, m_t)


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, sign: Tensor, C: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, MLSTMState]:
    """q, k (B, H, T, K), v (B, H, T, V), i, log_f, sign (B, H, T), C (B, H, K, V), n (B, H, K), m (B, H)."""
    T = q.shape[2]
    b, g = log_f.cumsum(-1), sign.cumprod(-1)  # (B, H, T)
    later = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    log_D = (b[..., None] + (i - b)[..., None, :]).masked_fill(later, -torch.inf)  # (B, H, T, T)
    log_start = b + m[..., None]
    m_t = torch.maximum(log_start, log_D.amax(-1)).detach()
    D = g[..., None] * g[..., None, :] * torch.exp(log_D - m_t[..., None])
    start = (g * torch.exp(log_start - m_t))[..., None]  # (B, H, T, 1)
    weights = q @ k.mT * D
    total = weights.sum(-1, keepdim=True) + start * (q @ n[..., None])
    h = (weights @ v + start * (q @ C)) / (torch.maximum(total.abs(), torch.exp(-m_t)[..., None]) + EPS)
    last = D[:, :, -1, :, None] * k  # (B, H, T, K)
    return h, (start[:, :, -1:] * C + last.mT @ v, start[:, :, -1] * n + last.sum(2), m_t[..., -1])
