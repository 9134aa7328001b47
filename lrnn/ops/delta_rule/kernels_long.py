"""Triton kernels of the delta rule for long sequences, with the glossary of lrnn/ops/delta_rule/op.py.

Only the computations that depend on the state run along time; the others run for all chunks at once. For a chunk of C
tokens that starts from S, with N = tril(K K^T, -1) and b = diag(beta),

    E = V - K S      G = E - N b G      X = b G      O = Q S + tril(Q K^T) X      S' = S + K^T X

so that G = (I + N b)^-1 E = E - L b E with L = (I + N b)^-1 N, which depends on keys and beta alone. From the gradients
of O and S' follow

    dX = K dS' + tril(Q K^T)^T dO      dR = dX - L^T b dX      dE = b dR = dV      dbeta = rowsum(G dR)
    dS = dS' + Q^T dO - K^T dE
    dQ = dO S^T + tril(dO X^T) K
    dK = X dS'^T + tril(dO X^T)^T Q - (M + M^T) K - dE S^T        M = tril(dE X^T, -1)

Nothing is divided by beta. Forward and backward pass use the same L. It leaves out a unit diagonal, which is exact.

WHOLE says that all tiles are full. Then the kernels need no masks, and those along time need a seventh to a fourth
fewer instructions.

    solve_kernel      L                        all chunks at once
    forward_kernel    G, O and the states      along time; a program takes a head and some columns of its state
    adjoint_kernel    dR and the states' dS'   back along time, divided in the same way
    backward_kernel   dQ, dK, dV, dbeta        all chunks at once
"""

import triton
import triton.language as tl


@triton.jit
def _rows(x, t, T, stride, size, C: tl.constexpr, B: tl.constexpr, WHOLE: tl.constexpr):
    """Load C rows of x (T, size), which are `stride` apart, from row t on: (C, B), with zeros outside."""
    row, column = t + tl.arange(0, C)[:, None], tl.arange(0, B)[None, :]
    return tl.load(x + row * stride + column, WHOLE | ((row < T) & (column < size)), 0.0)


@triton.jit
def _betas(beta, t, T, H, C: tl.constexpr, WHOLE: tl.constexpr):
    """Load C values of beta from token t on: (C,), with zeros past the end."""
    row = t + tl.arange(0, C)
    return tl.load(beta + row * H, WHOLE | (row < T), 0.0)


@triton.jit
def _inverses(nbs, scratch, BLOCK: tl.constexpr):
    """Invert I + N b for each strictly lower N b (BLOCK, BLOCK), row by row: r_i = e_i - sum_{l<i} (N b)_il r_l.

    All blocks are inverted at once. They go through `scratch`, so that a thread can read a single number (N b)_il that
    all its columns share. A product of powers of N b would be inaccurate: the powers exceed the precision of float32 if
    keys repeat and beta is near 2, which happens in a state that counts.
    """
    size: tl.constexpr = BLOCK * BLOCK
    tile = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    for b in tl.static_range(len(nbs)):
        tl.store(scratch + b * size + tile, nbs[b])
    tl.debug_barrier()
    block, column = scratch + tl.arange(0, len(nbs))[:, None] * size, tl.arange(0, BLOCK)[None, :]
    rows = ()
    for i in tl.static_range(BLOCK):
        r = tl.where(column == i, 1.0, 0.0) + tl.zeros((len(nbs), BLOCK), tl.float32)
        for m in tl.static_range(i):
            r -= tl.load(block + i * BLOCK + m) * rows[m]
        rows += (r,)
    tl.debug_barrier()
    for i in tl.static_range(BLOCK):
        tl.store(block + i * BLOCK + column, rows[i])
    tl.debug_barrier()
    inverses = ()
    for b in tl.static_range(len(nbs)):
        inverses += (tl.load(scratch + b * size + tile),)
    return inverses


@triton.jit(do_not_specialize=["T"])
def solve_kernel(
    k, beta, L, scratch, T, H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Shapes: k (B, T, H, K), beta (B, T, H), L (B, T, H, C), scratch (B, H, chunks, C, BLOCK).

    A program takes a chunk of a head, in blocks of BLOCK tokens:
    L_ij = (I + N_ii b_i)^-1 (N_ij - sum_{j<=l<i} N_il b_l L_lj).
    """
    t, head = tl.program_id(0) * C, tl.program_id(1).to(tl.int64)
    first = head // H * T * H + head % H  # token 0 of this head, counted in heads
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    ks, bs, n_ii, nb_ii = (), (), (), ()
    for i in tl.static_range(C // BLOCK):
        ks += (_rows(k + first * K, t + i * BLOCK, T, H * K, K, BLOCK, BK, WHOLE),)
        bs += (_betas(beta + first, t + i * BLOCK, T, H, BLOCK, WHOLE)[None, :],)
        n_ii += (tl.where(row > column, tl.dot(ks[i], tl.trans(ks[i])), 0.0),)
        nb_ii += (n_ii[i] * bs[i],)
    scratch += (head * tl.num_programs(0) + tl.program_id(0)) * C * BLOCK
    inverses = _inverses(nb_ii, scratch, BLOCK)
    L_rows = ()  # finished rows of L, tuples of blocks
    for i in tl.static_range(C // BLOCK):
        n, L_row = (), ()
        for j in tl.static_range(i):
            n += (tl.dot(ks[i], tl.trans(ks[j])),)
        n += (n_ii[i],)
        for j in tl.static_range(C // BLOCK):
            if j <= i:
                r = n[j]
                for m in tl.static_range(j, i):
                    r -= tl.dot(n[m] * bs[m], L_rows[m][j], input_precision="tf32x3")
                r = tl.dot(inverses[i], r, input_precision="tf32x3")
                L_row += (r,)
            else:
                r = tl.zeros((BLOCK, BLOCK), tl.float32)
            rows = t + i * BLOCK + row
            tl.store(L + first * C + rows * H * C + j * BLOCK + column, r, WHOLE | (rows < T))
        L_rows += (L_row,)


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    q, k, v, beta, L, S0, o, G, starts, S_end, T, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, HAS_S0: tl.constexpr, KEEP: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Shapes: v, o, G (B, T, H, V); starts (B, H, chunks, K, V), at the chunk starts; S0, S_end (B, H, K, V)."""
    v0, head = tl.program_id(0) * BV, tl.program_id(1).to(tl.int64)
    first, chunks = head // H * T * H + head % H, tl.cdiv(T, C)
    q += first * K
    k += first * K
    L += first * C
    beta += first
    v += first * V + v0
    o += first * V + v0
    G += first * V + v0
    i, j = tl.arange(0, BK)[:, None], tl.arange(0, BV)[None, :]
    tile, tile_in = i * V + v0 + j, WHOLE | ((i < K) & (v0 + j < V))
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    starts += head * chunks * K * V
    S = tl.zeros((BK, BV), tl.float32)
    if HAS_S0:
        S = tl.load(S0 + head * K * V + tile, tile_in, 0.0)
    for t in range(0, T, C):
        q_c = _rows(q, t, T, H * K, K, C, BK, WHOLE)
        k_c = _rows(k, t, T, H * K, K, C, BK, WHOLE)
        b_c = _betas(beta, t, T, H, C, WHOLE)[:, None]
        S_c = S.to(k_c.dtype)
        e_c = _rows(v, t, T, H * V, V - v0, C, BV, WHOLE) - tl.dot(k_c, S_c)
        g_c = tl.dot(_rows(L, t, T, H * C, C, C, C, WHOLE), (-b_c * e_c).to(k_c.dtype), e_c)
        x_c = (b_c * g_c).to(k_c.dtype)
        p_c = tl.where(row >= column, tl.dot(q_c, tl.trans(k_c)), 0.0).to(k_c.dtype)
        o_c = tl.dot(p_c, x_c, tl.dot(q_c, S_c))
        rows, rows_in = (t + row) * H * V + j, WHOLE | ((t + row < T) & (v0 + j < V))
        tl.store(o + rows, o_c, rows_in)
        if KEEP:
            tl.store(G + rows, g_c, rows_in)
            tl.store(starts + tl.cast(t // C, tl.int64) * K * V + tile, S_c, tile_in)
        S = tl.dot(tl.trans(k_c), x_c, S)
    tl.store(S_end + head * K * V + tile, S, tile_in)


@triton.jit(do_not_specialize=["T"])
def adjoint_kernel(
    q, k, beta, L, do, dS_end, dR, ends, dS0, T, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, HAS_DS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Shapes: do, dR (B, T, H, V); ends (B, H, chunks, K, V), the gradients of the states at the chunk ends."""
    v0, head = tl.program_id(0) * BV, tl.program_id(1).to(tl.int64)
    first, chunks = head // H * T * H + head % H, tl.cdiv(T, C)
    q += first * K
    k += first * K
    L += first * C
    beta += first
    do += first * V + v0
    dR += first * V + v0
    i, j = tl.arange(0, BK)[:, None], tl.arange(0, BV)[None, :]
    tile, tile_in = i * V + v0 + j, WHOLE | ((i < K) & (v0 + j < V))
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    ends += head * chunks * K * V
    dS = tl.zeros((BK, BV), tl.float32)
    if HAS_DS:
        dS = tl.load(dS_end + head * K * V + tile, tile_in, 0.0)
    for chunk in range(0, chunks):
        chunk = chunks - 1 - chunk
        t = chunk * C
        q_c = _rows(q, t, T, H * K, K, C, BK, WHOLE)
        k_c = _rows(k, t, T, H * K, K, C, BK, WHOLE)
        do_c = _rows(do, t, T, H * V, V - v0, C, BV, WHOLE)
        b_c = _betas(beta, t, T, H, C, WHOLE)[:, None]
        dS_c = dS.to(k_c.dtype)
        tl.store(ends + tl.cast(chunk, tl.int64) * K * V + tile, dS_c, tile_in)
        p_c = tl.where(row <= column, tl.dot(k_c, tl.trans(q_c)), 0.0).to(k_c.dtype)  # transposed
        dx_c = tl.dot(p_c, do_c, tl.dot(k_c, dS_c))
        dr_c = tl.dot(tl.trans(_rows(L, t, T, H * C, C, C, C, WHOLE)), (-b_c * dx_c).to(k_c.dtype), dx_c)
        tl.store(dR + (t + row) * H * V + j, dr_c, WHOLE | ((t + row < T) & (v0 + j < V)))
        dS = tl.dot(tl.trans(q_c), do_c, dS)
        dS = tl.dot(tl.trans(k_c), (-b_c * dr_c).to(k_c.dtype), dS)
    tl.store(dS0 + head * K * V + tile, dS, tile_in)


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    q, k, beta, G, starts, do, dR, ends, dq, dk, dv, dbeta, T, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Shapes: as above. A program takes BK of the K columns of q and k at a time."""
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first, t = head // H * T * H + head % H, chunk * C
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    i, j = tl.arange(0, BK), tl.arange(0, BV)
    do_c = _rows(do + first * V, t, T, H * V, V, C, BV, WHOLE)
    g_c = _rows(G + first * V, t, T, H * V, V, C, BV, WHOLE)
    dr_c = _rows(dR + first * V, t, T, H * V, V, C, BV, WHOLE)
    b_c = _betas(beta + first, t, T, H, C, WHOLE)[:, None]
    tokens = t + tl.arange(0, C)
    tl.store(dbeta + first + tokens * H, tl.sum(g_c.to(tl.float32) * dr_c.to(tl.float32), 1), WHOLE | (tokens < T))
    x_c, de_c = (b_c * g_c).to(do_c.dtype), (b_c * dr_c).to(do_c.dtype)
    tl.store(dv + first * V + (t + row) * H * V + j[None, :], de_c, WHOLE | ((t + row < T) & (j < V)[None, :]))
    de_c = -de_c
    dp_c = tl.where(row >= column, tl.dot(do_c, tl.trans(x_c)), 0.0).to(do_c.dtype)
    m_c = tl.where(row > column, tl.dot(de_c, tl.trans(x_c)), 0.0)
    m_c = (m_c + tl.trans(m_c)).to(do_c.dtype)
    tile = (head * tl.num_programs(0) + chunk) * K * V + i[:, None] * V + j[None, :]
    for k0 in range(0, K, BK):
        tile_in = WHOLE | ((k0 + i < K)[:, None] & (j < V)[None, :])
        S = tl.load(starts + k0 * V + tile, tile_in, 0.0)
        dS = tl.load(ends + k0 * V + tile, tile_in, 0.0)
        q_c = _rows(q + first * K + k0, t, T, H * K, K - k0, C, BK, WHOLE)
        k_c = _rows(k + first * K + k0, t, T, H * K, K - k0, C, BK, WHOLE)
        dq_c = tl.dot(dp_c, k_c, tl.dot(do_c, tl.trans(S)))
        dk_c = tl.dot(de_c, tl.trans(S), tl.dot(x_c, tl.trans(dS)))
        dk_c = tl.dot(tl.trans(dp_c), q_c, dk_c)
        dk_c = tl.dot(m_c, k_c, dk_c)
        columns = first * K + (t + row) * H * K + k0 + i[None, :]
        columns_in = WHOLE | ((t + row < T) & (k0 + i < K)[None, :])
        tl.store(dq + columns, dq_c, columns_in)
        tl.store(dk + columns, dk_c, columns_in)
