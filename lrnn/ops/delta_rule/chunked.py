"""The chunked form of the delta rule, with a gradient written by hand (Yang et al. 2024b, Section 3).

Within a chunk that starts from S, the rows x_t of X satisfy S_t = S + sum_{s<=t} k_s x_s^T, and

    (I + A) X = diag(beta) (V - K S)        A = tril(diag(beta) K K^T, -1)
    O = Q S + tril(Q K^T) X                 S' = S + K^T X

so a chunk costs one triangular solve. Of the states, only those at the chunk starts are kept for the gradient.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lrnn.ops.common.underflow import floor_of


class Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        """Run over T tokens. Shapes: q, k (N, T, K), v (N, T, V), beta (N, T, 1), state (N, K, V)."""
        o, x = torch.empty_like(v), torch.empty_like(v)
        states = []  # at the chunk starts
        for start in range(0, q.shape[1], chunk_size):
            c = slice(start, start + chunk_size)
            qc, kc = q[:, c], k[:, c]
            states.append(state)
            r = beta[:, c] * torch.baddbmm(v[:, c], kc, state, alpha=-1)
            xc = torch.linalg.solve_triangular(_lower(kc, beta[:, c]), r, upper=False, unitriangular=True)
            o[:, c] = torch.baddbmm((qc @ kc.mT).tril_() @ xc, qc, state)
            state = torch.baddbmm(state, kc.mT, xc)
            x[:, c] = xc
        ctx.save_for_backward(q, k, v, beta, x, *states)
        ctx.chunk_size = chunk_size
        return o, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, x, *states = ctx.saved_tensors
        do = do.contiguous()
        dq, dk, dv, dbeta = (torch.empty_like(z) for z in (q, k, v, beta))
        for i, state in reversed(list(enumerate(states))):
            c = slice(i * ctx.chunk_size, (i + 1) * ctx.chunk_size)
            qc, kc, bc, xc, doc = q[:, c], k[:, c], beta[:, c], x[:, c], do[:, c]
            # O = Q S + P X with P = tril(Q K^T), and S' = S + K^T X
            dx = torch.baddbmm((qc @ kc.mT).tril_().mT @ doc, kc, dstate)
            dp = (doc @ xc.mT).tril_()
            dq[:, c] = torch.baddbmm(doc @ state.mT, dp, kc)
            dkc = torch.baddbmm(xc @ dstate.mT, dp.mT, qc)
            # (I + A) X = R with A = tril(diag(beta) G, -1) and G = K K^T
            lower = _lower(kc, bc)
            dr = torch.linalg.solve_triangular(lower.mT, dx, upper=True, unitriangular=True)
            da = (dr @ xc.mT).tril_(-1).neg_()
            dg = bc * da
            # R = diag(beta) E with E = V - K S
            error = torch.baddbmm(v[:, c], kc, state, alpha=-1)
            de = bc * dr
            dbeta[:, c] = (da * (kc @ kc.mT)).sum(-1, keepdim=True) + (dr * error).sum(-1, keepdim=True)
            dv[:, c] = de
            dkc.baddbmm_(dg + dg.mT, kc).baddbmm_(de, state.mT, alpha=-1)
            dk[:, c] = dkc
            dstate = torch.baddbmm(dstate, qc.mT, doc).baddbmm_(kc.mT, de, alpha=-1)
        return dq, dk, dv, dbeta, dstate, None


def without_gradient(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Run over T tokens and keep nothing for a gradient. Shapes are those of `Chunked.forward`."""
    o = torch.empty_like(v)
    beta = beta.clamp_min(math.exp(floor_of(beta.dtype)))  # products of closed gates would underflow, which is slow
    for start in range(0, q.shape[1], chunk_size):
        c = slice(start, start + chunk_size)
        qc, kc = q[:, c], k[:, c]
        x = _rows(kc, v[:, c], beta[:, c], state)
        o[:, c] = torch.baddbmm((qc @ kc.mT).tril_() @ x, qc, state)
        state = torch.baddbmm(state, kc.mT, x)
    return o, state


def final_state(k: Tensor, v: Tensor, beta: Tensor, state: Tensor, chunk_size: int) -> Tensor:
    """Return the state after T tokens, without a gradient. Shapes are those of `Chunked.forward`."""
    beta = beta.clamp_min(math.exp(floor_of(beta.dtype)))
    for start in range(0, k.shape[1], chunk_size):
        c = slice(start, start + chunk_size)
        state = torch.baddbmm(state, k[:, c].mT, _rows(k[:, c], v[:, c], beta[:, c], state))
    return state


def _rows(k: Tensor, v: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """Return X of one chunk."""
    r = torch.baddbmm(v, k, state, alpha=-1).mul_(beta)
    return torch.linalg.solve_triangular((k @ k.mT).mul_(beta), r, upper=False, unitriangular=True)


def _lower(k: Tensor, beta: Tensor) -> Tensor:
    """Return A, with any values on and above the diagonal: the unitriangular solve never reads them."""
    return beta * (k @ k.mT)
