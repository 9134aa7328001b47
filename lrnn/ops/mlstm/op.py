"""The mLSTM: a matrix memory with an exponential input gate and one decay per head (Beck et al. 2024, Section 2.3).

    C_t = f_t C_{t-1} + i_t k_t v_t^T        n_t = f_t n_{t-1} + i_t k_t        i_t = exp(i~_t)
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)                                       f_t = s sigmoid(f~_t) - (s - 1)

Glossary, one head: q, k, n of size K; v, h of size V; the memory C is (K, V); the gates i and f are scalars, and
f, the only eigenvalue of the transition, lies in (0, 1) for s = 1 and in (-1, 1) for s = 2. Both forms sum logarithms
of f, which do not exist for negative f; so they treat its sign and its magnitude separately (Grazzi et al. 2025,
Appendix E.4).

Stabiliser: with m_t = max(log|f_t| + m_{t-1}, i~_t), C and n are held as multiples of exp(m). Then no exponential
exceeds 1, and the 1 in the denominator becomes exp(-m). The outputs don't depend on m, so no gradient goes through it.

Two forms of the same function:
- `recurrent` (recurrent.py) is the specification, one token at a time;
- `chunked` (chunked.py) works on `chunk_size` tokens with matrix products.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.choice import check_chunk_size
from lrnn.ops.common.eigenvalue_range import range_scale
from lrnn.ops.common.form import Form, choose_form
from lrnn.ops.mlstm.chunked import run_chunk
from lrnn.ops.mlstm.recurrent import MLSTMState, run_token

SMALLEST = 1e-6  # smaller |f~| are set to this: the logarithm of f = 0 does not exist


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
        input_gate, forget_gate: i~ and f~, from which the gates are made, (B, T, H).
        eigenvalue_range: range of the forget gate, (0, 1) or (-1, 1).
        initial_state: C, n, m; an empty memory when absent.
        form: `recurrent`, `chunked`, or `auto`: recurrent for a single token, else chunked.
        chunk_size: number of tokens in a chunk.

    Returns:
        outputs (B, T, H, V) in the dtype of `v`, and the final state, held in float32 (float64 when the inputs are).

    Raises:
        ValueError: another range, shapes that do not fit together, T is 0, or `chunk_size` is below 1.
    """
    s = range_scale(eigenvalue_range, "mlstm: eigenvalue_range")
    gates = input_gate.shape == forget_gate.shape == q.shape[:3]
    if q.shape != k.shape or q.shape[:3] != v.shape[:3] or not gates:
        raise ValueError(
            "mlstm: q, k, v and the gates must be (B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H), (B, T, H); "
            f"got {', '.join(str(tuple(x.shape)) for x in (q, k, v, input_gate, forget_gate))}"
        )
    (B, T, H, K), V = q.shape, v.shape[-1]
    for name, x, shape in zip("Cnm", initial_state or (), ((B, H, K, V), (B, H, K), (B, H)), strict=False):
        if x.shape != shape:
            raise ValueError(f"mlstm: {name} of the initial state must be {shape}, got {tuple(x.shape)}")
    if T == 0:
        raise ValueError("mlstm: the sequence must hold at least one token")
    check_chunk_size("mlstm", chunk_size)
    chosen = choose_form("mlstm", form, [v, q, k, input_gate, forget_gate])
    out_dtype, dtype = v.dtype, torch.promote_types(v.dtype, torch.float32)
    # (B, T, H, ...) -> (B, H, T, ...)
    q, k, v, i, f = (x.to(dtype).transpose(1, 2) for x in (q, k, v, input_gate, forget_gate))
    if initial_state is None:
        initial_state = v.new_zeros(B, H, K, V), v.new_zeros(B, H, K), v.new_full((B, H), -torch.inf)
    C, n, m = initial_state
    state = C.to(dtype), n.to(dtype), m.to(dtype)
    log_f, sign = _logarithm_and_sign(f, s)
    with torch.autocast(v.device.type, enabled=False):  # the state stays in float32
        size = 1 if chosen == "recurrent" else chunk_size
        run = run_token if size == 1 else run_chunk
        outputs = []
        for start in range(0, T, size):
            c = slice(start, start + size)
            h, state = run(state, *(x[:, :, c] for x in (q, k, v, i, log_f, sign)))
            outputs.append(h)
    return torch.cat(outputs, 2).transpose(1, 2).to(out_dtype), state


def _logarithm_and_sign(f: Tensor, s: int) -> tuple[Tensor, Tensor]:
    """Return log|gate| and the sign of gate = s sigmoid(f) - (s - 1)."""
    if s == 1:
        return F.logsigmoid(f), torch.ones_like(f)
    x = -f.abs().clamp(min=SMALLEST)  # the gate is tanh(f / 2)
    return torch.log(-torch.expm1(x)) - torch.log1p(torch.exp(x)), torch.where(f < 0, -1.0, 1.0).to(f.dtype)
