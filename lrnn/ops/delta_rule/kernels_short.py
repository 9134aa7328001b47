"""Triton kernels of the delta rule for short sequences, with the glossary of lrnn/ops/delta_rule/op.py.

A program holds the state of one sequence and head in float32 and walks along time, C tokens at a time, with the
equations of the chunked form (chunked.py). A whole chunk stays on the chip. This suits short sequences: there are more
heads than the GPU can hold at once, and a kernel for each step of the computation would spend its time on launches. The
inverse of I + A is computed row by row. A product of powers of A would be inaccurate: the powers exceed the precision
of float32 if keys repeat and beta is near 2, which happens in a state that counts.

The backward pass recomputes the states at the chunk starts, stores them, and goes through the chunks from the end.
"""

import triton
import triton.language as tl


@triton.jit
def _load_chunk(q, k, v, beta, t, T, H, K, V, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Load q, k (C, BK), v (C, BV), beta (C, 1) of one head in float32; zeros past the end. Rows of q are H K apart."""
    t += tl.arange(0, C)[:, None]
    i, j = tl.arange(0, BK)[None, :], tl.arange(0, BV)[None, :]
    in_k, in_v = (t < T) & (i < K), (t < T) & (j < V)
    return (
        tl.load(q + t * H * K + i, in_k, 0.0).to(tl.float32),
        tl.load(k + t * H * K + i, in_k, 0.0).to(tl.float32),
        tl.load(v + t * H * V + j, in_v, 0.0).to(tl.float32),
        tl.load(beta + t * H, t < T, 0.0).to(tl.float32),
    )


@triton.jit
def _solve(k, v, beta, S, C: tl.constexpr, PRECISION: tl.constexpr):
    """Return X = (I + A)^-1 diag(beta) E, and for its gradient (I + A)^-1, K K^T and E = V - K S."""
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    kk = tl.dot(k, tl.trans(k), input_precision=PRECISION)
    inverse = tl.where(row > column, -beta * kk, 0.0)
    for i in range(2, C):  # row i of the inverse, without the diagonal, from the rows above
        r = tl.sum(tl.where(row == i, inverse, 0.0), 0)
        r += tl.sum(r[:, None] * inverse, 0)
        inverse = tl.where(row == i, r[None, :], inverse)
    inverse += tl.where(row == column, 1.0, 0.0)
    error = v - tl.dot(k, S, input_precision=PRECISION)
    return tl.dot(inverse, beta * error, input_precision=PRECISION), inverse, kk, error


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    q, k, v, beta, S0, o, S_end, T, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, HAS_S0: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Shapes: q, k (B, T, H, K); v, o (B, T, H, V); beta (B, T, H); S0, S_end (B, H, K, V)."""
    head = tl.program_id(0).to(tl.int64)
    first = head // H * T * H + head % H  # token 0 of this head, counted in heads
    q += first * K
    k += first * K
    v += first * V
    o += first * V
    beta += first
    i, j = tl.arange(0, BK)[:, None], tl.arange(0, BV)[None, :]
    tile, tile_in = head * K * V + i * V + j, (i < K) & (j < V)
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_S0:
        S = tl.load(S0 + tile, tile_in, 0.0)
    for t in range(0, T, C):
        q_c, k_c, v_c, beta_c = _load_chunk(q, k, v, beta, t, T, H, K, V, C, BK, BV)
        x, _, _, _ = _solve(k_c, v_c, beta_c, S, C, PRECISION)
        qk = tl.where(row >= column, tl.dot(q_c, tl.trans(k_c), input_precision=PRECISION), 0.0)
        o_c = tl.dot(q_c, S, input_precision=PRECISION)
        o_c = tl.dot(qk, x, o_c, input_precision=PRECISION)
        tl.store(o + (t + row) * H * V + j, o_c, (t + row < T) & (j < V))
        S = tl.dot(tl.trans(k_c), x, S, input_precision=PRECISION)
    tl.store(S_end + tile, S, tile_in)


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    q, k, v, beta, S0, do, dS_end, dq, dk, dv, dbeta, dS0, starts, T, H: tl.constexpr, K: tl.constexpr,
    V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    HAS_S0: tl.constexpr, HAS_DS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; starts (B, H, chunks, K, V) is scratch memory."""
    head = tl.program_id(0).to(tl.int64)
    first = head // H * T * H + head % H
    q += first * K
    k += first * K
    v += first * V
    do += first * V
    beta += first
    dq += first * K
    dk += first * K
    dv += first * V
    dbeta += first
    chunks = tl.cdiv(T, C)
    i, j = tl.arange(0, BK)[:, None], tl.arange(0, BV)[None, :]
    tile, tile_in = i * V + j, (i < K) & (j < V)
    starts += head * chunks * K * V
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_S0:
        S = tl.load(S0 + head * K * V + tile, tile_in, 0.0)
    for chunk in range(0, chunks):
        tl.store(starts + chunk * K * V + tile, S, tile_in)
        _, k_c, v_c, beta_c = _load_chunk(q, k, v, beta, chunk * C, T, H, K, V, C, BK, BV)
        x, _, _, _ = _solve(k_c, v_c, beta_c, S, C, PRECISION)
        S = tl.dot(tl.trans(k_c), x, S, input_precision=PRECISION)
    tl.debug_barrier()  # threads read starts that other threads wrote
    dS = tl.zeros((BK, BV), tl.float32)
    if HAS_DS:
        dS = tl.load(dS_end + head * K * V + tile, tile_in, 0.0)
    for chunk in range(chunks - 1, -1, -1):
        t = chunk * C
        S = tl.load(starts + chunk * K * V + tile, tile_in, 0.0)
        q_c, k_c, v_c, beta_c = _load_chunk(q, k, v, beta, t, T, H, K, V, C, BK, BV)
        in_k, in_v = (t + row < T) & (tl.arange(0, BK)[None, :] < K), (t + row < T) & (j < V)
        do_c = tl.load(do + (t + row) * H * V + j, in_v, 0.0).to(tl.float32)
        x, inverse, kk, error = _solve(k_c, v_c, beta_c, S, C, PRECISION)
        # O = Q S + P X with P = tril(Q K^T), and S' = S + K^T X
        p = tl.where(row >= column, tl.dot(q_c, tl.trans(k_c), input_precision=PRECISION), 0.0)
        dx = tl.dot(k_c, dS, input_precision=PRECISION)
        dx = tl.dot(tl.trans(p), do_c, dx, input_precision=PRECISION)
        dp = tl.where(row >= column, tl.dot(do_c, tl.trans(x), input_precision=PRECISION), 0.0)
        dq_c = tl.dot(do_c, tl.trans(S), input_precision=PRECISION)
        dq_c = tl.dot(dp, k_c, dq_c, input_precision=PRECISION)
        dk_c = tl.dot(x, tl.trans(dS), input_precision=PRECISION)
        dk_c = tl.dot(tl.trans(dp), q_c, dk_c, input_precision=PRECISION)
        # (I + A) X = R with A = tril(diag(beta) K K^T, -1) and R = diag(beta) E
        dr = tl.dot(tl.trans(inverse), dx, input_precision=PRECISION)
        da = tl.where(row > column, -tl.dot(dr, tl.trans(x), input_precision=PRECISION), 0.0)
        dbeta_c = tl.sum(da * kk, 1) + tl.sum(dr * error, 1)
        dkk = beta_c * da
        de = beta_c * dr
        dk_c = tl.dot(dkk + tl.trans(dkk), k_c, dk_c, input_precision=PRECISION)
        dk_c -= tl.dot(de, tl.trans(S), input_precision=PRECISION)
        dS = tl.dot(tl.trans(q_c), do_c, dS, input_precision=PRECISION)
        dS -= tl.dot(tl.trans(k_c), de, input_precision=PRECISION)
        columns = tl.arange(0, BK)[None, :]
        tl.store(dq + (t + row) * H * K + columns, dq_c, in_k)
        tl.store(dk + (t + row) * H * K + columns, dk_c, in_k)
        tl.store(dv + (t + row) * H * V + j, de, in_v)
        tokens = t + tl.arange(0, C)
        tl.store(dbeta + tokens * H, dbeta_c, tokens < T)
    tl.store(dS0 + head * K * V + tile, dS, tile_in)
