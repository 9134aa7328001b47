"""The chunked form of the selective scan, with a gradient written by hand.

The loop over time runs in place, `chunk_size` tokens at a time. The gradient recomputes the states of a chunk from the
one at its start. Since a may be 0 or negative, nothing is divided by a, and no logarithm of a is taken.

`without_gradient` is the same loop where no gradient is needed: the states are read once, while they are in the cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lrnn.ops.common.underflow import floor_of

CACHE_ELEMENTS = 2**20  # of a (chunk, batch, N, D) tensor: 4 MB in float32; larger chunks measured slower
CACHE_ELEMENTS_WITHOUT_GRADIENT = 2**17


def default_chunk_size(batch: int, D: int, N: int, on_gpu: bool) -> int:
    """Return 64 tokens, on a CPU fewer if the states of a chunk would not stay in the cache."""
    return 64 if on_gpu else min(64, max(1, CACHE_ELEMENTS // max(1, batch * D * N)))


class Chunked(torch.autograd.Function):
    """The scan; each of its (chunk, batch, N, D) tensors is one of a few buffers that stay in the CPU's cache."""

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
        """Run over T tokens. Shapes: u, dt (T, batch, D), A (N, D), B, C (T, batch, N), h (batch, N, D)."""
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


def without_gradient(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, s: int
) -> tuple[Tensor, Tensor]:
    """Run over T tokens. Shapes: u, dt (T, batch, D), A (N, D), B, C (T, batch, N), h (batch, N, D)."""
    chunk_size = max(1, CACHE_ELEMENTS_WITHOUT_GRADIENT // max(1, h.numel()))
    a_buffer, states_buffer = h.new_empty(2, min(chunk_size, len(u)), *h.shape)
    one = h.new_ones(())
    x, y = (dt * u)[:, :, None], torch.empty_like(u)
    B, C = B[..., None], C[..., None]
    for start in range(0, len(u), chunk_size):
        c = slice(start, start + chunk_size)
        a, states = a_buffer[: len(u[c])], states_buffer[: len(u[c])]
        torch.mul(dt[c, :, None], A, out=a).clamp_min_(floor_of(A.dtype)).exp_()
        if s == 2:
            torch.sub(one, a, alpha=2, out=a)  # minus the transition, in one pass
        torch.mul(x[c], B[c], out=states)
        for h_t, a_t in zip(states.unbind(), a.unbind(), strict=True):
            h = h_t.addcmul_(a_t, h, value=1 if s == 1 else -1)
        h = h.clone()
        torch.sum(states.mul_(C[c]), 2, out=y[c])
    return y, h


def _states(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, h: Tensor, s: int, a_buffer: Tensor, states_buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute all states of a chunk that starts from h, and its transitions a; both are (T, batch, N, D)."""
    a = torch.mul(dt[:, :, None], A, out=a_buffer[: len(u)]).clamp_min_(floor_of(A.dtype)).exp_()
    if s == 2:
        a.mul_(2).sub_(1)
    states = torch.mul((dt * u)[:, :, None], B[..., None], out=states_buffer[: len(u)])
    for h_t, a_t in zip(states.unbind(), a.unbind(), strict=True):
        h = h_t.addcmul_(a_t, h)
    return states, a
