"""The chunked form of the delta product, with a gradient written by hand. The glossary is in op.py.

A chunk has c tokens and m = c n reflections, numbered r = 1, ..., m; t(r) is the token of reflection r. Let b_t be the
sum of the log gates of the chunk's tokens up to t. For s < t, b_t - b_s stands for the sum of those of s + 1, ..., t.
All exponents below are at most 0, so nothing overflows, and gates of exactly 0 or 1 are exact. With
D_{rs} = exp(b_{t(r)} - b_{t(s)}), the rows x_r of X satisfy

    S after reflection r = exp(b_{t(r)}) S + sum_{s<=r} D_{rs} k_s x_s^T
    (I + A) X = diag(beta) E        A = diag(beta) L        L = tril(D * K K^T, -1)        E = V - diag(exp b) K S
    O = diag(exp b) Q S + P X       P_{ts} = D_{ts} q_t . k_s  for s <= t n, else 0
    S' = exp(b_c) S + (diag(exp(b_c - b)) K)^T X

so a chunk costs one triangular solve with m rows, and c rows of queries. Of the states, only those at the chunk starts
are kept for the gradient.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Chunk(NamedTuple):
    """The inputs of one chunk, and its decays."""

    q: Tensor  # (N, c, K)
    k: Tensor  # (N, m, K)
    v: Tensor  # (N, m, V)
    beta: Tensor  # (N, m, 1)
    decay: Tensor  # (N, m, 1), exp(b) at each reflection
    decay_q: Tensor  # (N, c, 1), exp(b) at each token
    decay_end: Tensor  # (N, m, 1), exp(b_c - b)
    L: Tensor  # (N, m, m)
    D_q: Tensor  # (N, c, m), the mask of P included

    def P(self) -> Tensor:
        return self.D_q * (self.q @ self.k.mT)

    def error(self, state: Tensor) -> Tensor:
        return self.v - self.decay * (self.k @ state)


def _chunk(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None) -> tuple[Chunk, Tensor]:
    """Return the chunk, and D (N, m, m) as far as L needs it."""
    c, m = q.shape[1], k.shape[1]
    n = m // c
    if log_gate is None:
        b, between = q.new_zeros(1, c, 1), q.new_zeros(1, c, c)  # the same for all heads
    else:
        b, between = log_gate.cumsum(1), _differences(log_gate)
    between = between.repeat_interleave(n, dim=2)  # (N, c, m), b of a token less b of a reflection
    lower = torch.ones(m, m, dtype=torch.bool, device=q.device).tril(-1)
    seen = torch.arange(m, device=q.device) < n * torch.arange(1, c + 1, device=q.device)[:, None]
    D = torch.where(lower, between.repeat_interleave(n, dim=1), -torch.inf).exp()
    D_q = torch.where(seen, between, -torch.inf).exp()
    decays = b.repeat_interleave(n, dim=1).exp(), b.exp(), between[:, -1, :, None].exp()
    return Chunk(q, k, v, beta, *decays, D * (k @ k.mT), D_q), D


def _differences(log_gate: Tensor) -> Tensor:
    """Return b_t - b_s (N, c, c) for s < t, from log gates (N, c, 1); 0 elsewhere.

    Each is a sum of its own. Two cumulative sums would cancel after a gate that is nearly 0, and give NaN after a 0.
    """
    c = log_gate.shape[1]
    later = torch.ones(c, c, dtype=torch.bool, device=log_gate.device).tril(-1)
    return log_gate.expand(-1, c, c).where(later, 0).cumsum(1)


class Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_gate: Tensor | None,
        state: Tensor,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        """Shapes: q (N, T, K), k (N, T n, K), v (N, T n, V), beta (N, T n, 1), log_gate (N, T, 1), state (N, K, V)."""
        ctx.chunk_size = chunk_size
        o, x = v.new_empty(*q.shape[:2], v.shape[-1]), torch.empty_like(v)
        states = []  # at the chunk starts
        for c, r in _slices(q, k, chunk_size):
            chunk, _ = _chunk(q[:, c], k[:, r], v[:, r], beta[:, r], None if log_gate is None else log_gate[:, c])
            states.append(state)
            rhs = chunk.beta * chunk.error(state)
            xc = torch.linalg.solve_triangular(chunk.beta * chunk.L, rhs, upper=False, unitriangular=True)
            o[:, c] = torch.baddbmm(chunk.P() @ xc, chunk.decay_q * chunk.q, state)
            state = torch.baddbmm(chunk.decay_q[:, -1:] * state, (chunk.decay_end * chunk.k).mT, xc)
            x[:, r] = xc
        ctx.save_for_backward(q, k, v, beta, log_gate, x, *states)
        return o, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, log_gate, x, *states = ctx.saved_tensors
        dq, dk, dv, dbeta = (torch.empty_like(z) for z in (q, k, v, beta))
        dlog_gate = None if log_gate is None else torch.empty_like(log_gate)
        for (c, r), state in reversed(list(zip(_slices(q, k, ctx.chunk_size), states, strict=True))):
            gate = None if log_gate is None else log_gate[:, c]
            chunk, D = _chunk(q[:, c], k[:, r], v[:, r], beta[:, r], gate)
            xc, doc, P = x[:, r], do[:, c], chunk.P()
            end = chunk.decay_end * chunk.k
            # O = diag(exp b) Q S + P X, and S' = exp(b_c) S + end^T X
            dx = torch.baddbmm(P.mT @ doc, end, dstate)
            dP = doc @ xc.mT
            dq[:, c] = torch.baddbmm(chunk.decay_q * (doc @ state.mT), dP * chunk.D_q, chunk.k)
            dend = xc @ dstate.mT
            dkc = torch.baddbmm(chunk.decay_end * dend, (dP * chunk.D_q).mT, chunk.q)
            # (I + A) X = diag(beta) E with A = diag(beta) L
            A = chunk.beta * chunk.L
            dr = torch.linalg.solve_triangular(A.mT, dx, upper=True, unitriangular=True)
            dA = (dr @ xc.mT).tril_(-1).neg_()
            dL, error, dE = chunk.beta * dA, chunk.error(state), chunk.beta * dr
            dbeta[:, r] = (dA * chunk.L).sum(-1, keepdim=True) + (dr * error).sum(-1, keepdim=True)
            dG = dL * D
            dv[:, r] = dE
            decayed = chunk.decay * dE
            dkc.baddbmm_(dG + dG.mT, chunk.k).baddbmm_(decayed, state.mT, alpha=-1)
            dk[:, r] = dkc
            if dlog_gate is not None:
                dlog_gate[:, c] = _dlog_gate(chunk, state, dstate, doc, dP * P, dL * chunk.L, dE, end * dend)
            dstate = torch.baddbmm(chunk.decay_q[:, -1:] * dstate, (chunk.decay_q * chunk.q).mT, doc)
            dstate.baddbmm_(chunk.k.mT, decayed, alpha=-1)
        return dq, dk, dv, dbeta, dlog_gate, dstate, None


def _dlog_gate(
    chunk: Chunk, state: Tensor, dstate: Tensor, do: Tensor, W: Tensor, U: Tensor, dE: Tensor, Z: Tensor
) -> Tensor:
    """Return the gradient of a chunk's log gates (N, c, 1).

    Every decay is the exponential of some b, or of a difference of two, so each gives its own value times its gradient:
    W (N, c, m) for D in P, U (N, m, m) for D in L, Z (N, m, K) for exp(b_c - b).
    """
    c, m = W.shape[1:]
    of_reflection = U.sum(2) - U.sum(1) - W.sum(1) - Z.sum(2) - (dE * (chunk.decay * (chunk.k @ state))).sum(2)
    db = of_reflection.unflatten(1, (c, m // c)).sum(2) + W.sum(2) + (do * (chunk.decay_q * (chunk.q @ state))).sum(2)
    db[:, -1] += Z.sum((1, 2)) + (dstate * chunk.decay_q[:, -1:] * state).sum((1, 2))
    return db.flip(1).cumsum(1).flip(1)[..., None]  # b_t sums the log gates up to t


def _slices(q: Tensor, k: Tensor, chunk_size: int) -> list[tuple[slice, slice]]:
    """Return, for each chunk, the slices of its tokens and of its reflections; chunks are equally long to one token."""
    T, n = q.shape[1], k.shape[1] // q.shape[1]
    chunks = -(-T // chunk_size)
    starts = [T * i // chunks for i in range(chunks + 1)]
    return [(slice(start, end), slice(n * start, n * end)) for start, end in pairwise(starts)]
