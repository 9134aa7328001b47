"""The delta rule: a linear RNN whose transition is a generalized Householder matrix.

    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t vt^T        o_t = S_t^T q_t

Glossary, one head: q, k of size K; v, o of size V; the state S is (K, V); beta is a scalar.
With |k| = 1 the transition has one eigenvalue 1 - beta and K - 1 ones, so beta in (0, 1) keeps the
eigenvalues in (0, 1) and beta in (0, 2) opens them to (-1, 1) (Grazzi et al. 2025, Table 1).

Forms of the same function (lrnn/ops/common/form.py):
- `recurrent` is the specification, one token at a time;
- `chunked` works on `chunk_size` tokens with matrix products (Yang et al. 2024b, Section 3). Within a
  chunk that starts from S, the rows x_t of X satisfy S_t = S + sum_{s<=t} k_s x_s^T, and
      (I + A) X = diag(beta) (V - K S)        A = tril(diag(beta) K K^T, -1)
      O = Q S + tril(Q K^T) X                 S' = S + K^T X
  so a chunk costs one triangular solve. Its gradient is written by hand: of the states, only those at
  the chunk starts are kept;
- `triton` runs on a GPU: for short sequences, and in float32, a kernel of ours that keeps a head's whole computation
  on the chip and never rounds the state to 16 bits (lrnn/ops/delta_rule/operators_short.py), else kernels of ours that
  spread over the chunks (lrnn/ops/delta_rule/operators_long.py), or for large heads flash-linear-attention's
  (lrnn/ops/delta_rule/operators_fla.py).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lrnn.ops.common.form import Form, choose_form

LARGEST_HEAD = {"ours": 128, "fla": 256}  # K and V that the kernels take
KERNELS = tuple(f"lrnn.ops.delta_rule.operators_{name}" for name in ("short", "long", "fla"))


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    *,
    form: Form = "auto",
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Run the delta rule over T tokens.

    Args:
        q, k: queries and L2-normalised keys, (B, T, H, K).
        v: values, (B, T, H, V).
        beta: step sizes in [0, 2], (B, T, H).
        initial_state: (B, H, K, V); zeros when absent.
        form: `auto`, `recurrent`, `chunked` or `triton`. The last computes in the dtype of `v`, with beta and the
            state in float32.
        chunk_size: tokens a chunk of the chunked form.

    Returns:
        outputs (B, T, H, V) in the dtype of `v`, and the final state (B, H, K, V), held in float32
        (float64 when the inputs are).
    """
    if q.shape != k.shape or q.shape[:3] != v.shape[:3] or q.shape[:3] != beta.shape:
        raise ValueError(
            "delta_rule: q, k, v, beta must be (B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H); "
            f"got {', '.join(str(tuple(x.shape)) for x in (q, k, v, beta))}"
        )
    (B, T, H, K), V = q.shape, v.shape[-1]
    if initial_state is not None and initial_state.shape != (B, H, K, V):
        raise ValueError(f"delta_rule: initial_state must be {(B, H, K, V)}, got {tuple(initial_state.shape)}")
    if T == 0:
        raise ValueError("delta_rule: the sequence must hold at least one token")
    tensors = [x for x in (v, q, k, beta, initial_state) if x is not None]
    form = choose_form("delta_rule", form, tensors, KERNELS, _obstacle(v.dtype, K, V))
    if form == "triton":
        return _triton(q.to(v.dtype), k.to(v.dtype), v, beta.float(), initial_state)
    dtype = torch.promote_types(v.dtype, torch.float32)
    # (B, T, H, D) -> (B H, T, D): a batch of independent heads
    out_dtype = v.dtype
    q, k, v, beta = (x.to(dtype).transpose(1, 2).reshape(B * H, T, -1) for x in (q, k, v, beta))
    if initial_state is None:
        initial_state = v.new_zeros(B, H, K, V)
    state = initial_state.to(dtype).reshape(B * H, K, V)
    with torch.autocast(v.device.type, enabled=False):  # the state stays in float32
        if form == "recurrent":
            o, state = _recurrent(q, k, v, beta, state)
        else:
            o, state = _Chunked.apply(q, k, v, beta, state, chunk_size)
    return o.reshape(B, H, T, V).transpose(1, 2).to(out_dtype), state.reshape(B, H, K, V)


def _obstacle(dtype: torch.dtype, K: int, V: int) -> str | None:
    largest = LARGEST_HEAD["ours" if dtype == torch.float32 else "fla"]
    return None if max(K, V) <= largest else f"heads of {max(K, V)} in {dtype}, only up to {largest}"


def _triton(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    from lrnn.ops.delta_rule import operators_fla, operators_long, operators_short

    state = None if state is None else state.float()
    size = max(q.shape[-1], v.shape[-1])
    if size > LARGEST_HEAD["ours"]:
        return operators_fla.delta_rule_op(q, k, v, beta, state)[:2]
    short = 256 if size <= 32 else 64  # tokens, by what is faster on an H100
    if q.shape[1] <= short or v.dtype == torch.float32:
        return operators_short.delta_rule_op(q, k, v, beta, state)
    return operators_long.delta_rule_op(q, k, v, beta, state, torch.is_grad_enabled())[:2]


def _recurrent(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The specification. q, k (N, T, K), v (N, T, V), beta (N, T, 1), state (N, K, V)."""
    outputs = []
    for t in range(q.shape[1]):
        k_t = k[:, t, :, None]  # (N, K, 1)
        error = v[:, t, None] - k_t.mT @ state  # (N, 1, V)
        state = state + beta[:, t, None] * k_t @ error
        outputs.append(q[:, t, None] @ state)
    return torch.cat(outputs, dim=1), state


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        """q, k (N, T, K), v (N, T, V), beta (N, T, 1), state (N, K, V)."""
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


def _lower(k: Tensor, beta: Tensor) -> Tensor:
    """A + (values above the strict lower triangle that the unitriangular solve never reads)."""
    return beta * (k @ k.mT)
