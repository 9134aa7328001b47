"""The selective scan: a diagonal linear RNN, the state of Mamba.

    h_t = a_t * h_{t-1} + dt_t * B_t * u_t        a_t = s * exp(dt_t * A) - (s - 1)        y_t = C_t . h_t

Glossary: D channels, each with N states and its own decay rates A < 0, (D, N); the step sizes dt > 0,
(D,), and the input and output vectors B, C, (N,), depend on the token. s = 1 is Mamba's own transition
with eigenvalues in (0, 1); s = 2 stretches it to (-1, 1). The input term is the same in both ranges
(Grazzi et al. 2025, Table 1 and Figure 11).

Forms of the same function (lrnn/ops/common/form.py):
- `recurrent` is the specification, differentiated by autograd;
- `chunked` runs the loop over time in place, `chunk_size` tokens at a time, with a gradient written by
  hand that recomputes the states of a chunk from the one at its start. Since a may be 0 or negative,
  nothing is divided by a and no logarithm of it is taken;
- `triton` runs on a GPU (lrnn/ops/selective_scan/operators.py).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lrnn.ops.common.eigenvalue_range import range_scale
from lrnn.ops.common.form import Form, choose_form

KERNELS = ("lrnn.ops.selective_scan.operators",)
CACHE_ELEMENTS = 2**20  # of a (chunk, batch, N, D) tensor: 4 MB in float32; larger chunks measured slower


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    eigenvalue_range: Sequence[float],
    initial_state: Tensor | None = None,
    *,
    form: Form = "auto",
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the selective scan over T tokens.

    Args:
        u, dt: inputs and step sizes, (batch, T, D).
        A: decay rates, negative, (D, N).
        B, C: input and output vectors, (batch, T, N).
        eigenvalue_range: (0, 1) or (-1, 1).
        initial_state: (batch, D, N); zeros when absent.
        form: `auto`, `recurrent`, `chunked` or `triton`.
        chunk_size: tokens a chunk of the chunked form; by default 64, on a CPU fewer if its states would not stay in
            the cache.

    Returns:
        outputs (batch, T, D) in the dtype of `u`, and the final state (batch, D, N), held in float32
        (float64 when the inputs are).
    """
    s = range_scale(eigenvalue_range)
    (batch, T, D), N = u.shape, A.shape[-1]
    if dt.shape != u.shape or A.shape != (D, N) or B.shape != (batch, T, N) or C.shape != B.shape:
        raise ValueError(
            "selective_scan: u and dt must be (batch, T, D), A (D, N), B and C (batch, T, N); "
            f"got {', '.join(str(tuple(x.shape)) for x in (u, dt, A, B, C))}"
        )
    if initial_state is not None and initial_state.shape != (batch, D, N):
        raise ValueError(f"selective_scan: initial_state must be {(batch, D, N)}, got {tuple(initial_state.shape)}")
    if T == 0:
        raise ValueError("selective_scan: the sequence must hold at least one token")
    tensors = [x for x in (u, dt, A, B, C, initial_state) if x is not None]
    form = choose_form("selective_scan", form, tensors, KERNELS)
    if form == "triton":
        from lrnn.ops.selective_scan.operators import selective_scan_op

        h = None if initial_state is None else initial_state.mT
        y, h, _ = selective_scan_op(u, dt, A.mT, B, C, h, s, torch.is_grad_enabled())
        return y, h.mT
    dtype = torch.promote_types(u.dtype, torch.float32)
    # time first, and D last so that the innermost loops are long: u, dt (T, batch, D), A (N, D), B, C (T, batch, N)
    out_dtype = u.dtype
    u, dt, A, B, C = (x.to(dtype).transpose(0, 1).contiguous() for x in (u, dt, A, B, C))
    if initial_state is None:
        initial_state = u.new_zeros(batch, D, N)
    h = initial_state.to(dtype).mT
    with torch.autocast(u.device.type, enabled=False):  # the state stays in float32
        if form == "recurrent":
            y, h = _recurrent(u, dt, A, B, C, h, s)
        else:
            if chunk_size is None:
                chunk_size = 64 if u.is_cuda else min(64, max(1, CACHE_ELEMENTS // (batch * D * N)))
            y, h = _Chunked.apply(u, dt, A, B, C, h, s, chunk_size)
    return y.transpose(0, 1).to(out_dtype), h.mT


def _recurrent(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, s: int) -> tuple[Tensor, Tensor]:
    """The specification. u, dt (T, batch, D), A (N, D), B, C (T, batch, N), h (batch, N, D)."""
    outputs = []
    for u_t, dt_t, B_t, C_t in zip(u, dt, B, C, strict=True):
        a_t = s * torch.exp(dt_t[:, None] * A) - (s - 1)  # (batch, N, D)
        h = a_t * h + (dt_t * u_t)[:, None] * B_t[:, :, None]
        outputs.append((C_t[:, :, None] * h).sum(1))
    return torch.stack(outputs), h


class _Chunked(torch.autograd.Function):
    """Every (chunk, batch, N, D) tensor is one of a few buffers that stay in the processor's cache."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        h: Tensor,
        s: int,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        """u, dt (T, batch, D), A (N, D), B, C (T, batch, N), h (batch, N, D)."""
        chunks = [slice(start, start + chunk_size) for start in range(0, len(u), chunk_size)]
        a_buffer, states_buffer = h.new_empty(2, min(chunk_size, len(u)), *h.shape)
        y = torch.empty_like(u)
        starts = []  # the states at the chunk starts
        for c in chunks:
            starts.append(h)
            states, _ = _states(u[c], dt[c], A, B[c], h, s, a_buffer, states_buffer)
            y[c] = (C[c, :, None] @ states)[:, :, 0]
            h = states[-1].clone()
        ctx.save_for_backward(u, dt, A, B, C, *starts)
        ctx.s, ctx.chunks = s, chunks
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, *starts = ctx.saved_tensors
        du, ddt, dB, dC = (torch.empty_like(x) for x in (u, dt, B, C))
        dA = torch.zeros_like(A)
        a_buffer, states_buffer, g_buffer = dh.new_empty(3, ctx.chunks[0].stop, *dh.shape)
        for c, start in reversed(list(zip(ctx.chunks, starts, strict=True))):
            states, a = _states(u[c], dt[c], A, B[c], start, ctx.s, a_buffer, states_buffer)
            # g_t = dL/dh_t = C_t dy_t + a_{t+1} g_{t+1}
            g = torch.mul(C[c, :, :, None], dy[c, :, None], out=g_buffer[: len(a)])
            g[-1] += dh
            steps, transitions = g.unbind(), a.unbind()
            for t in range(len(g) - 2, -1, -1):
                steps[t].addcmul_(transitions[t + 1], steps[t + 1])
            dh = a[0] * g[0]
            dC[c] = (states @ dy[c, :, :, None])[..., 0]
            x = dt[c] * u[c]
            dB[c] = (g @ x[..., None])[..., 0]
            dx = (B[c, :, None] @ g)[:, :, 0]
            du[c] = dx * dt[c]
            # dL/d(dt A) = g_t h_{t-1} da_t/d(dt A), where the last factor is s exp(dt A) = a + (s - 1)
            g[1:].mul_(states[:-1])
            g[0].mul_(start)
            g.mul_(a.add_(ctx.s - 1))
            ddt[c] = torch.mul(g, A, out=a).sum(2).addcmul_(dx, u[c])
            dA += g.mul_(dt[c, :, None]).sum((0, 1))
        return du, ddt, dA, dB, dC, dh, None, None


def _states(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, h: Tensor, s: int, a_buffer: Tensor, states_buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """All states of a chunk that starts from h, and its transitions a: both (T, batch, N, D)."""
    a = torch.mul(dt[:, :, None], A, out=a_buffer[: len(u)]).exp_()
    if s == 2:
        a.mul_(2).sub_(1)
    states = torch.mul((dt * u)[:, :, None], B[..., None], out=states_buffer[: len(u)])
    for h_t, a_t in zip(states.unbind(), a.unbind(), strict=True):
        h = h_t.addcmul_(a_t, h)
    return states, a
