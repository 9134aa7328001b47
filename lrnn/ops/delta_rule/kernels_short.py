"""Triton kernels of the delta rule for short sequences, with the glossary of lrnn/ops/delta_rule/op.py.

A program holds the state of one sequence and head in float32 and walks along time, C tokens at a time, with the
equations of the chunked form (chunked.py). A whole chunk stays on the chip. This suits short sequences: there are more
heads than the GPU can hold at once, and a kernel for each step of the computation would spend its time on launches. The
inverse of I + A is computed row by row. A product of powers of A would be inaccurate: the powers exceed the precision
of float32 if keys repeat and beta is near 2, which happens in a state that counts.

With a gate the state decays before each token, S <- g_t S, and the equations are those of lrnn/ops/delta_product/
chunked.py. Its names: b_t is the sum of the log gates of a chunk up to t, and D_{ts} = exp(b_t - b_s) for s <= t.

The backward pass recomputes the states at the chunk starts, stores them, and goes through the chunks from the end.
"""

import triton
import triton.language as tl


@triton.jit
def _rows(x, t, T, stride, size, C: tl.constexpr, B: tl.constexpr):
    """Load C rows of x in float32, which are `stride` apart, from token t on: (C, B), with zeros outside."""
    t, i = t + tl.arange(0, C)[:, None], tl.arange(0, B)[None, :]
    return tl.load(x + t * stride + i, (t < T) & (i < size), 0.0).to(tl.float32)


@triton.jit
def _store_rows(x, rows, t, T, stride, size, C: tl.constexpr, B: tl.constexpr):
    """Store what `_rows` would load."""
    t, i = t + tl.arange(0, C)[:, None], tl.arange(0, B)[None, :]
    tl.store(x + t * stride + i, rows, (t < T) & (i < size))


@triton.jit
def _load_keys(k, v, beta, t, T, H, K, V, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Load k (C, BK), v (C, BV) and beta (C, 1) of one head in float32; zeros past the end."""
    k_c, v_c = _rows(k, t, T, H * K, K, C, BK), _rows(v, t, T, H * V, V, C, BV)
    return k_c, v_c, _rows(beta, t, T, H, 1, C, 1)


@triton.jit
def _decays(log_gate, t, T, H, C: tl.constexpr, HAS_GATE: tl.constexpr):
    """Return exp(b) and exp(b_C - b), (C, 1), D (C, C), and exp(b_C) of one head; gates are 1 past the end.

    Each difference of two b is a sum of its own, so that a gate of 0 gives no NaN.
    """
    if HAS_GATE:
        row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
        down = tl.load(log_gate + (t + row) * H, t + row < T, 0.0).to(tl.float32)
        across = tl.load(log_gate + (t + column) * H, t + column < T, 0.0).to(tl.float32)
        between = tl.cumsum(tl.where(row > column, down, 0.0), 0)
        D = tl.where(row >= column, tl.exp(between), 0.0)
        # Triton 3.6 can't compile a scan of (C, 1)
        from_start = tl.sum(tl.where(column <= row, across, 0.0), 1)[:, None]
        to_end = tl.sum(tl.where(column > row, across, 0.0), 1)[:, None]
        return tl.exp(from_start), tl.exp(to_end), D, tl.exp(tl.sum(across))
    else:
        return 1.0, 1.0, 1.0, 1.0


@triton.jit
def _solve(k, v, beta, S, decay, D, C: tl.constexpr, HAS_GATE: tl.constexpr, PRECISION: tl.constexpr):
    """Return X = (I + A)^-1 diag(beta) E, and for its gradient (I + A)^-1, D K K^T and E = V - exp(b) K S."""
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    kk = tl.dot(k, tl.trans(k), input_precision=PRECISION)
    if HAS_GATE:
        kk *= D
    inverse = tl.where(row > column, -beta * kk, 0.0)
    for i in range(2, C):  # row i of the inverse, without the diagonal, from the rows above
        r = tl.sum(tl.where(row == i, inverse, 0.0), 0)
        r += tl.sum(r[:, None] * inverse, 0)
        inverse = tl.where(row == i, r[None, :], inverse)
    inverse += tl.where(row == column, 1.0, 0.0)
    kS = tl.dot(k, S, input_precision=PRECISION)
    error = v - (decay * kS if HAS_GATE else kS)
    return tl.dot(inverse, beta * error, input_precision=PRECISION), inverse, kk, error


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    q, k, v, beta, log_gate, S0, o, S_end, T, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    HAS_GATE: tl.constexpr, HAS_S0: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Shapes: q, k (B, T, H, K); v, o (B, T, H, V); beta, log_gate (B, T, H); S0, S_end (B, H, K, V)."""
    head = tl.program_id(0).to(tl.int64)
    first = head // H * T * H + head % H  # token 0 of this head, counted in heads
    q += first * K
    k += first * K
    v += first * V
    o += first * V
    beta += first
    log_gate += first
    i, j = tl.arange(0, BK)[:, None], tl.arange(0, BV)[None, :]
    tile, tile_in = head * K * V + i * V + j, (i < K) & (j < V)
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_S0:
        S = tl.load(S0 + tile, tile_in, 0.0)
    for t in range(0, T, C):
        q_c = _rows(q, t, T, H * K, K, C, BK)
        k_c, v_c, beta_c = _load_keys(k, v, beta, t, T, H, K, V, C, BK, BV)
        decay, to_end, D, decay_end = _decays(log_gate, t, T, H, C, HAS_GATE)
        x, _, _, _ = _solve(k_c, v_c, beta_c, S, decay, D, C, HAS_GATE, PRECISION)
        qk = tl.where(row >= column, tl.dot(q_c, tl.trans(k_c), input_precision=PRECISION), 0.0)
        if HAS_GATE:
            qk *= D
            q_c *= decay
            k_c *= to_end
        o_c = tl.dot(q_c, S, input_precision=PRECISION)
        o_c = tl.dot(qk, x, o_c, input_precision=PRECISION)
        _store_rows(o, o_c, t, T, H * V, V, C, BV)
        if HAS_GATE:
            S *= decay_end
        S = tl.dot(tl.trans(k_c), x, S, input_precision=PRECISION)
    tl.store(S_end + tile, S, tile_in)


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    q, k, v, beta, log_gate, S0, do, dS_end, dq, dk, dv, dbeta, dlog_gate, dS0, starts, T, H: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    HAS_GATE: tl.constexpr, HAS_S0: tl.constexpr, HAS_DS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; starts (B, H, chunks, K, V) is scratch memory."""
    head = tl.program_id(0).to(tl.int64)
    first = head // H * T * H + head % H
    q += first * K
    k += first * K
    v += first * V
    do += first * V
    beta += first
    log_gate += first
    dq += first * K
    dk += first * K
    dv += first * V
    dbeta += first
    dlog_gate += first
    chunks = tl.cdiv(T, C)
    i, j = tl.arange(0, BK)[:, None], tl.arange(0, BV)[None, :]
    tile, tile_in = i * V + j, (i < K) & (j < V)
    starts += head * chunks * K * V
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_S0:
        S = tl.load(S0 + head * K * V + tile, tile_in, 0.0)
    for chunk in range(0, chunks):
        tl.store(starts + tl.cast(chunk, tl.int64) * K * V + tile, S, tile_in)
        k_c, v_c, beta_c = _load_keys(k, v, beta, chunk * C, T, H, K, V, C, BK, BV)
        decay, to_end, D, decay_end = _decays(log_gate, chunk * C, T, H, C, HAS_GATE)
        x, _, _, _ = _solve(k_c, v_c, beta_c, S, decay, D, C, HAS_GATE, PRECISION)
        if HAS_GATE:
            k_c *= to_end
            S *= decay_end
        S = tl.dot(tl.trans(k_c), x, S, input_precision=PRECISION)
    tl.debug_barrier()  # threads read starts that other threads wrote
    dS = tl.zeros((BK, BV), tl.float32)
    if HAS_DS:
        dS = tl.load(dS_end + head * K * V + tile, tile_in, 0.0)
    for chunk in range(chunks - 1, -1, -1):
        t = chunk * C
        S = tl.load(starts + tl.cast(chunk, tl.int64) * K * V + tile, tile_in, 0.0)
        k_c, v_c, beta_c = _load_keys(k, v, beta, t, T, H, K, V, C, BK, BV)
        decay, to_end, D, decay_end = _decays(log_gate, t, T, H, C, HAS_GATE)
        x, inverse, kk, error = _solve(k_c, v_c, beta_c, S, decay, D, C, HAS_GATE, PRECISION)
        # O = exp(b) Q S + P X with P = tril(D Q K^T), and S' = exp(b_C) S + (exp(b_C - b) K)^T X
        q_c, do_c = _rows(q, t, T, H * K, K, C, BK), _rows(do, t, T, H * V, V, C, BV)
        p = tl.where(row >= column, tl.dot(q_c, tl.trans(k_c), input_precision=PRECISION), 0.0)
        k_end = k_c
        if HAS_GATE:
            p *= D
            k_end = to_end * k_c
        dx = tl.dot(k_end, dS, input_precision=PRECISION)
        dx = tl.dot(tl.trans(p), do_c, dx, input_precision=PRECISION)
        # (I + A) X = R with A = tril(diag(beta) D K K^T, -1) and R = diag(beta) E
        dr = tl.dot(tl.trans(inverse), dx, input_precision=PRECISION)
        da = tl.where(row > column, -tl.dot(dr, tl.trans(x), input_precision=PRECISION), 0.0)
        dbeta_c = tl.sum(da * kk, 1) + tl.sum(dr * error, 1)
        dkk = beta_c * da
        de = beta_c * dr
        tokens = t + tl.arange(0, C)
        tl.store(dbeta + tokens * H, dbeta_c, tokens < T)
        _store_rows(dv, de, t, T, H * V, V, C, BV)
        dp = tl.where(row >= column, tl.dot(do_c, tl.trans(x), input_precision=PRECISION), 0.0)
        if HAS_GATE:  # each decay gives its value times its gradient to the sums b in its exponent
            of_D = dkk * kk + dp * p
            decayed_kS = _rows(v, t, T, H * V, V, C, BV) - error
            db = tl.sum(of_D, 1) - tl.sum(of_D, 0) - tl.sum(de * decayed_kS, 1)
            dkk *= D
            dp *= D
            # read again what would otherwise be held in registers
            S = tl.load(starts + tl.cast(chunk, tl.int64) * K * V + tile, tile_in, 0.0)
            q_c, do_c = _rows(q, t, T, H * K, K, C, BK), _rows(do, t, T, H * V, V, C, BV)
            k_c = _rows(k, t, T, H * K, K, C, BK)
        dq_c = tl.dot(do_c, tl.trans(S), input_precision=PRECISION)
        if HAS_GATE:
            dq_c *= decay
            db += tl.sum(q_c * dq_c, 1)
        dq_c = tl.dot(dp, k_c, dq_c, input_precision=PRECISION)
        _store_rows(dq, dq_c, t, T, H * K, K, C, BK)
        dk_c = tl.dot(x, tl.trans(dS), input_precision=PRECISION)
        decayed_de = de
        if HAS_GATE:
            dk_c *= to_end
            of_end = tl.sum(k_c * dk_c, 1)
            db_end = tl.sum(of_end) + decay_end * tl.sum(dS * S)
            tl.store(dlog_gate + tokens * H, tl.cumsum(db - of_end, 0, reverse=True) + db_end, tokens < T)
            dS *= decay_end
            decayed_de = decay * de
        dk_c = tl.dot(tl.trans(dp), q_c, dk_c, input_precision=PRECISION)
        dk_c = tl.dot(dkk + tl.trans(dkk), k_c, dk_c, input_precision=PRECISION)
        dk_c -= tl.dot(decayed_de, tl.trans(S), input_precision=PRECISION)
        _store_rows(dk, dk_c, t, T, H * K, K, C, BK)
        decayed_q = q_c
        if HAS_GATE:
            decayed_q = decay * q_c
        dS = tl.dot(tl.trans(decayed_q), do_c, dS, input_precision=PRECISION)
        dS -= tl.dot(tl.trans(k_c), decayed_de, input_precision=PRECISION)
    tl.store(dS0 + head * K * V + tile, dS, tile_in)
