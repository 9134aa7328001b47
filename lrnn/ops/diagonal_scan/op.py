"""A diagonal linear RNN with any transitions.

    h_t = a_t * h_{t-1} + b_t

Two forms of the same function:
- `recurrent` is the specification, one token at a time;
- `chunked` joins neighbouring stretches of 1, 2, 4, ... tokens (Hillis & Steele 1986): (a, b) followed by (a', b') is
  (a a', a' b + b'). It takes log2(T) rounds and needs no division, so a may be 0 or negative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Form, choose_form


def diagonal_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    form: Form = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over T tokens.

    Args:
        a, b: transitions and inputs, (B, T, D).
        initial_state: (B, D); zeros when absent.
        form: `recurrent`, `chunked`, or `auto`: recurrent for a single token, else chunked.

    Returns:
        all states (B, T, D) and the last one (B, D), held in float32 (float64 when the inputs are).

    Raises:
        ValueError: shapes do not fit together, or T is 0.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(f"diagonal_scan: a and b must be (B, T, D); got {tuple(a.shape)}, {tuple(b.shape)}")
    B, T, D = a.shape
    if initial_state is not None and initial_state.shape != (B, D):
        raise ValueError(f"diagonal_scan: initial_state must be {(B, D)}, got {tuple(initial_state.shape)}")
    if T == 0:
        raise ValueError("diagonal_scan: the sequence must hold at least one token")
    dtype = torch.promote_types(b.dtype, torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    h = b.new_zeros(B, D) if initial_state is None else initial_state.to(dtype)
    chosen = choose_form("diagonal_scan", form, [b, a])
    return (_recurrent if chosen == "recurrent" else _chunked)(a, b, h)


def _recurrent(a: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The specification."""
    states = []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return torch.stack(states, 1), h


def _chunked(a: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    T = a.shape[1]
    a, b = torch.cat([torch.zeros_like(a[:, :1]), a], 1), torch.cat([h[:, None], b], 1)  # the start is a token too
    shift = 1
    while shift <= T:
        b = b + a * F.pad(b[:, :-shift], (0, 0, shift, 0))
        a = a * F.pad(a[:, :-shift], (0, 0, shift, 0))
        shift *= 2
    return b[:, 1:].contiguous(), b[:, -1].clone()  # a view would keep the states of all tokens in memory
