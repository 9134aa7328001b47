"""Triton kernels of the selective scan, with the glossary of lrnn/ops/selective_scan/op.py.

A program holds the states of one sequence and BD channels, a (BD, BN) tile of registers, and walks along time, GROUP
tokens at a time. No tensor of size (batch, T, D, N) is stored.

    forward    computes y, and for the gradient the states at the starts of chunks of CHUNK tokens.
    adjoint    runs back from the end. It computes the gradient g of the state at the end of each part; a part is one
               or more chunks:
                   g_{t-1} = a_t (g_t + C_t dy_t)
    backward   runs for all parts at once, and takes the chunks of a part from the end. It recomputes the states of a
               chunk from its start, WALK tokens at a time, and stores those at the starts of its groups in a scratch
               buffer for each program. Then it takes the groups from the end, with the states of a group in
               registers; g_t now includes C_t dy_t:
                   dC_t = sum_d h_t dy_t      dB_t = sum_d g_t dt_t u_t      d(dt_t u_t) = sum_n g_t B_t
                   d(dt_t A) = g_t h_{t-1} s exp(dt_t A)

A transition may be 0 or negative, so the kernels recompute a state rather than divide by a transition. Tokens past the
end read as dt = 0, which does not change a state. N is padded to whole launches of BN. In memory the states of a
channel lie side by side, so that a thread holds 4 of them: sums over N then need few exchanges between threads.

WHOLE says that all tiles are full. Then most loads and stores need no masks.
"""

import triton
import triton.language as tl

from lrnn.ops.common.exponential import LOG2E


@triton.jit
def _channels(x, left, D: tl.constexpr, d, d_in, GROUP: tl.constexpr, WHOLE: tl.constexpr):
    """Load GROUP tokens of x (T, D): BD channels each, in float32; zeros where no token is left."""
    rows = ()
    for i in tl.static_range(GROUP):
        rows += (tl.load(x + i * D + d, WHOLE | (d_in & (i < left)), 0.0).to(tl.float32),)
    return rows


@triton.jit
def _vector(x, i, left, N: tl.constexpr, n, WHOLE: tl.constexpr):
    """Load token i of x (T, N): BN states; zeros where no token is left."""
    return tl.load(x + i * N + n, WHOLE | ((n < N) & (i < left)), 0.0)


@triton.jit
def _decay(dt, A2, S: tl.constexpr):
    """Return s exp(dt A), (BD, BN), for a token; A2 = A log2(e) is (BD, BN), dt (BD,)."""
    power = dt[:, None] * A2
    if S == 2:
        power += 1
    return tl.exp2(power)


@triton.jit
def _step(h, u, dt, A2, B, S: tl.constexpr):
    """Return the state (BD, BN) after a token, a h + dt u B; u and dt are (BD,), B (BN,)."""
    rest = (dt * u)[:, None] * B[None, :]
    if S == 2:  # a = decay - 1; as many instructions as for s = 1
        rest -= h
    return _decay(dt, A2, S) * h + rest


@triton.jit
def _step_back(ag, g, S: tl.constexpr):
    """Return a g, where a = decay - (s - 1), from ag = decay g."""
    return ag - g if S == 2 else ag


@triton.jit
def _softplus_slope(y):
    """Return the derivative of softplus at x, 1 - exp(-y), from y = softplus(x); a series where y is small."""
    return tl.where(y < 0.01, y * (1 - y * (0.5 - y * (1 / 6))), 1 - tl.exp2(y * -LOG2E))


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    u, dt, A, B, C, skip, h0, y, starts, h_end, T, n0, D: tl.constexpr, N: tl.constexpr,
    S: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    HAS_H0: tl.constexpr, KEEP_STARTS: tl.constexpr, ACCUMULATE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Shapes: u, dt, y (batch, T, D); A (D, N); B, C (batch, T, N); skip (D,); h0, h_end (batch, D, N).

    starts is (batch, chunks, D, N). With ACCUMULATE this launch, of states n0 to n0 + BN, adds to y of earlier ones;
    the first one adds skip u.
    """
    b, n = tl.program_id(1).to(tl.int64), n0 + tl.arange(0, BN)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    d_in = d < D
    tile, tile_in = d[:, None] * N + n[None, :], d_in[:, None] & (n[None, :] < N)
    u += b * T * D
    dt += b * T * D
    y += b * T * D
    B += b * T * N
    C += b * T * N
    starts += b * tl.cdiv(T, CHUNK) * D * N
    A2 = tl.load(A + tile, tile_in, 0.0) * LOG2E
    skips = tl.load(skip + d, d_in, 0.0)
    h = tl.zeros((BD, BN), tl.float32)
    if HAS_H0:
        h = tl.load(h0 + b * D * N + tile, tile_in, 0.0)
    us, dts = _channels(u, T, D, d, d_in, GROUP, False), _channels(dt, T, D, d, d_in, GROUP, False)
    for t in range(0, T, GROUP):
        if KEEP_STARTS:  # noqa: SIM102  decided when compiling; the inner condition is decided on the GPU
            if t % CHUNK == 0:
                tl.store(starts + tile, h, tile_in)
                starts += D * N
        left = T - t
        u += GROUP * D
        dt += GROUP * D
        # the loads of the next group run while this group is computed
        us_next = _channels(u, left - GROUP, D, d, d_in, GROUP, False)
        dts_next = _channels(dt, left - GROUP, D, d, d_in, GROUP, False)
        ys = ()
        for i in tl.static_range(GROUP):
            h = _step(h, us[i], dts[i], A2, _vector(B, i, left, N, n, WHOLE), S)
            y_i = tl.sum(_vector(C, i, left, N, n, WHOLE)[None, :] * h, 1)
            if not ACCUMULATE:
                y_i += skips * us[i]
            ys += (y_i,)
        for i in tl.static_range(GROUP):
            inside, total = WHOLE | (d_in & (i < left)), ys[i]
            if ACCUMULATE:
                total += tl.load(y + i * D + d, inside, 0.0)
            tl.store(y + i * D + d, total, inside)
        y += GROUP * D
        B += GROUP * N
        C += GROUP * N
        us, dts = us_next, dts_next
    tl.store(h_end + b * D * N + tile, h, tile_in)


@triton.jit(do_not_specialize=["T", "part"])
def adjoint_kernel(
    dt, A, C, dy, dh_end, ends, T, part, n0, D: tl.constexpr, N: tl.constexpr,
    S: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
    HAS_DH: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; dh_end (batch, D, N), ends (batch, parts, D, N), with `part` tokens in a part."""
    b, n = tl.program_id(1).to(tl.int64), n0 + tl.arange(0, BN)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    d_in = d < D
    tile, tile_in = d[:, None] * N + n[None, :], d_in[:, None] & (n[None, :] < N)
    parts, groups = tl.cdiv(tl.cast(T, tl.int64), part), tl.cdiv(tl.cast(T, tl.int64), GROUP)
    dt += b * T * D
    dy += b * T * D
    C += b * T * N
    ends += (b * parts + parts - 1) * D * N
    A2 = tl.load(A + tile, tile_in, 0.0) * LOG2E
    g = tl.zeros((BD, BN), tl.float32)
    if HAS_DH:
        g = tl.load(dh_end + b * D * N + tile, tile_in, 0.0)
    tl.store(ends + tile, g, tile_in)
    t = (groups - 1) * GROUP
    dts = _channels(dt + t * D, T - t, D, d, d_in, GROUP, WHOLE)
    dys = _channels(dy + t * D, T - t, D, d, d_in, GROUP, WHOLE)
    for _ in range(part // GROUP, groups):  # nothing depends on the gradient before the first part
        # the loads of the group before this one run while this group is computed
        before = tl.maximum(t - GROUP, 0)
        dts_before = _channels(dt + before * D, T - before, D, d, d_in, GROUP, WHOLE)
        dys_before = _channels(dy + before * D, T - before, D, d, d_in, GROUP, WHOLE)
        for i in tl.static_range(GROUP - 1, -1, -1):
            g += _vector(C + t * N, i, T - t, N, n, WHOLE)[None, :] * dys[i][:, None]
            g = _step_back(_decay(dts[i], A2, S) * g, g, S)
        if t % part == 0:
            ends -= D * N
            tl.store(ends + tile, g, tile_in)
        t -= GROUP
        dts, dys = dts_before, dys_before


@triton.jit(do_not_specialize=["T", "part", "items"])
def backward_kernel(
    u, dt, A, B, C, skip, starts, dy, ends, du, ddt, dA, dB, dC, dskip, dbias, dh0, scratch, T, part, n0, items,
    D: tl.constexpr, N: tl.constexpr,
    S: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    WALK: tl.constexpr, MANY: tl.constexpr, HAS_ENDS: tl.constexpr, ACCUMULATE: tl.constexpr, SOFTPLUS: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; dA (batch, parts, D, N), dskip, dbias (batch, parts, D), scratch (programs, groups, BD, BN).

    dB and dC are (batch, blocks of channels, T, N). They, dA, dskip and dbias hold shares, which the caller sums. An
    item of work is a part of a sequence and a block of channels. With SOFTPLUS, ddt is the gradient of x in
    dt = softplus(x), and dbias its sum.
    """
    blocks: tl.constexpr = tl.cdiv(D, BD)
    if not MANY:
        part = CHUNK
    chunks, parts, chunks_of_part = tl.cdiv(T, CHUNK), tl.cdiv(T, part), part // CHUNK
    n = n0 + tl.arange(0, BN)
    scratch += tl.program_id(0).to(tl.int64) * (CHUNK // GROUP) * BD * BN
    scratch += tl.arange(0, BD)[:, None] * BN + tl.arange(0, BN)[None, :]
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        block, this, b = item % blocks, item // blocks % parts, tl.cast(item // blocks // parts, tl.int64)
        d = block * BD + tl.arange(0, BD)
        d_in = d < D
        tile, tile_in = d[:, None] * N + n[None, :], d_in[:, None] & (n[None, :] < N)
        A2 = tl.load(A + tile, tile_in, 0.0) * LOG2E
        skips = tl.load(skip + d, d_in, 0.0)
        g = tl.zeros((BD, BN), tl.float32)
        if HAS_ENDS:
            g = tl.load(ends + (b * parts + this) * D * N + tile, tile_in, 0.0)
        dA_sum = tl.zeros((BD, BN), tl.float32)
        dskip_sum, dbias_sum = tl.zeros((BD,), tl.float32), tl.zeros((BD,), tl.float32)
        for back in range(0, min(chunks_of_part, chunks - this * chunks_of_part) if MANY else 1):
            chunk = (min((this + 1) * chunks_of_part, chunks) - 1 - back) if MANY else this
            h = tl.load(starts + (b * chunks + chunk) * D * N + tile, tile_in, 0.0)
            left_in_chunk = min(T - chunk * CHUNK, CHUNK)
            token = b * T + chunk * CHUNK  # of all sequences
            share = (b * blocks + block) * T + chunk * CHUNK
            for walked in range(0, left_in_chunk, WALK):
                row, left = token + walked, left_in_chunk - walked
                us = _channels(u + row * D, left, D, d, d_in, WALK, WHOLE)
                dts = _channels(dt + row * D, left, D, d, d_in, WALK, WHOLE)
                for i in tl.static_range(WALK):
                    if i % GROUP == 0:
                        tl.store(scratch + (walked + i) // GROUP * BD * BN, h)
                    h = _step(h, us[i], dts[i], A2, _vector(B + row * N, i, left, N, n, WHOLE), S)
            tl.debug_barrier()
            groups = tl.cdiv(left_in_chunk, GROUP)
            for group in range(groups - 1, -1, -1):
                row, left = token + group * GROUP, left_in_chunk - group * GROUP
                us = _channels(u + row * D, left, D, d, d_in, GROUP, WHOLE)
                dts = _channels(dt + row * D, left, D, d, d_in, GROUP, WHOLE)
                dys = _channels(dy + row * D, left, D, d, d_in, GROUP, WHOLE)
                hs = (tl.load(scratch + group * BD * BN),)
                for i in tl.static_range(GROUP):
                    hs += (_step(hs[i], us[i], dts[i], A2, _vector(B + row * N, i, left, N, n, WHOLE), S),)
                for i in tl.static_range(GROUP - 1, -1, -1):
                    g += _vector(C + row * N, i, left, N, n, WHOLE)[None, :] * dys[i][:, None]
                    column, column_in = (share + group * GROUP + i) * N + n, WHOLE | ((n < N) & (i < left))
                    tl.store(dC + column, tl.sum(hs[i + 1] * dys[i][:, None], 0), column_in)
                    tl.store(dB + column, tl.sum(g * (dts[i] * us[i])[:, None], 0), column_in)
                    dx = tl.sum(g * _vector(B + row * N, i, left, N, n, WHOLE)[None, :], 1)
                    ag = _decay(dts[i], A2, S) * g
                    dlog = ag * hs[i]  # the gradient of dt A
                    dA_sum += dlog * dts[i][:, None]
                    du_i = dx * dts[i]
                    ddt_i = dx * us[i] + tl.sum(dlog * A2, 1) * (1 / LOG2E)
                    if SOFTPLUS:
                        ddt_i *= _softplus_slope(dts[i])
                        dbias_sum += ddt_i
                    g = _step_back(ag, g, S)
                    offset, inside = (row + i) * D + d, WHOLE | (d_in & (i < left))
                    if ACCUMULATE:
                        du_i += tl.load(du + offset, inside, 0.0)
                        ddt_i += tl.load(ddt + offset, inside, 0.0)
                    else:
                        du_i += skips * dys[i]
                        dskip_sum += dys[i] * us[i]
                    tl.store(du + offset, du_i, inside)
                    tl.store(ddt + offset, ddt_i, inside)
        row = b * parts + this
        tl.store(dA + row * D * N + tile, dA_sum, tile_in)
        if not ACCUMULATE:
            tl.store(dskip + row * D + d, dskip_sum, d_in)
        if SOFTPLUS:
            if ACCUMULATE:
                dbias_sum += tl.load(dbias + row * D + d, d_in, 0.0)
            tl.store(dbias + row * D + d, dbias_sum, d_in)
        if this == 0:
            tl.store(dh0 + b * D * N + tile, g, tile_in)
