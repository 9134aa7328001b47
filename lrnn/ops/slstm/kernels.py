"""Triton kernels of the sLSTM, with the glossary of lrnn/ops/slstm/op.py.

A program holds the states of BB sequences and one head, (BB, BD) tiles, and the recurrent weights of the head. It walks
along time, one token at a time. The loads of the next token run while this token is computed.

    forward     computes h, and for the gradient the gates' inputs i~, f~, z~, o~ and the states before each token.
    backward    takes the tokens from the end. It recomputes c and n from the states before the token. It computes the
                gradients of i~, f~, z~ and o~, which are those of x, and from them that of the output before.

No gradient goes through the stabiliser m, except from the first token to the initial m.
"""

import triton
import triton.language as tl


@triton.jit
def _four(x, D: tl.constexpr, inside):
    """Load four tiles that lie D numbers apart, in float32; zeros outside."""
    return (
        tl.load(x, inside, 0.0).to(tl.float32),
        tl.load(x + D, inside, 0.0).to(tl.float32),
        tl.load(x + 2 * D, inside, 0.0).to(tl.float32),
        tl.load(x + 3 * D, inside, 0.0).to(tl.float32),
    )


@triton.jit
def _store_four(x, D: tl.constexpr, a, b, c, d, inside):
    tl.store(x, a, inside)
    tl.store(x + D, b, inside)
    tl.store(x + 2 * D, c, inside)
    tl.store(x + 3 * D, d, inside)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    small = tl.exp(-2 * tl.abs(x))
    y = (1 - small) / (1 + small)
    return tl.where(x < 0, -y, y)


@triton.jit
def _shares(i, f, m):
    """Return what is kept of the memory, what is written to it, and the new stabiliser."""
    log_f = tl.minimum(f, 0) - tl.log(1 + tl.exp(-tl.abs(f))) + m
    m = tl.maximum(log_f, i)
    return tl.exp(log_f - m), tl.exp(i - m), m


@triton.jit(do_not_specialize=["B", "T"])
def forward_kernel(
    x, R, start, y, end, gates, before, B, T, H: tl.constexpr, D: tl.constexpr,
    BB: tl.constexpr, BD: tl.constexpr, HAS_START: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Shapes: x, gates, before (B, T, H, 4, D); R (H, D, 4, D); y (B, T, H, D); start, end (4, B, H, D): h, c, n, m."""
    head, b, d = tl.program_id(1), tl.program_id(0) * BB + tl.arange(0, BB)[:, None], tl.arange(0, BD)[None, :]
    row, inside = b.to(tl.int64), (b < B) & (d < D)
    k = tl.arange(0, BD)[:, None]
    R_i, R_f, R_z, R_o = _four(R + (head * D + k) * 4 * D + d, D, (k < D) & (d < D))
    memory, size = (row * H + head) * D + d, tl.cast(B, tl.int64) * H * D
    h, c, n = (tl.zeros((BB, BD), tl.float32),) * 3
    m = tl.full((BB, BD), float("-inf"), tl.float32)
    if HAS_START:
        h, c, n, m = _four(start + memory, size, inside)
    first = row * T * H + head
    x += first * 4 * D + d
    gates += first * 4 * D + d
    before += first * 4 * D + d
    y += first * D + d
    x_i, x_f, x_z, x_o = _four(x, D, inside)
    for t in range(T):
        x += H * 4 * D
        next_i, next_f, next_z, next_o = _four(x, D, inside & (t + 1 < T))
        i = tl.dot(h, R_i, x_i, input_precision=PRECISION)
        f = tl.dot(h, R_f, x_f, input_precision=PRECISION)
        z = tl.dot(h, R_z, x_z, input_precision=PRECISION)
        o = tl.dot(h, R_o, x_o, input_precision=PRECISION)
        if KEEP:
            _store_four(gates, D, i, f, z, o, inside)
            _store_four(before, D, h, c, n, m, inside)
            gates += H * 4 * D
            before += H * 4 * D
        keep, write, m = _shares(i, f, m)
        c = keep * c + write * _tanh(z)
        n = keep * n + write
        h = _sigmoid(o) * c / n
        tl.store(y, h, inside)
        y += H * D
        x_i, x_f, x_z, x_o = next_i, next_f, next_z, next_o
    _store_four(end + memory, size, h, c, n, m, inside)


@triton.jit(do_not_specialize=["B", "T"])
def backward_kernel(
    R, gates, before, dy, dend, dx, dstart, B, T, H: tl.constexpr, D: tl.constexpr,
    BB: tl.constexpr, BD: tl.constexpr, HAS_DEND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; dx as x, dy as y, dend and dstart as the states. dend's share of m is not read."""
    head, b, d = tl.program_id(1), tl.program_id(0) * BB + tl.arange(0, BB)[:, None], tl.arange(0, BD)[None, :]
    row, inside = b.to(tl.int64), (b < B) & (d < D)
    k = tl.arange(0, BD)[:, None]
    R_i, R_f, R_z, R_o = _four(R + (head * D + d) * 4 * D + k, D, (k < D) & (d < D))  # transposed
    memory, size = (row * H + head) * D + d, tl.cast(B, tl.int64) * H * D
    dh, dc, dn, dm = (tl.zeros((BB, BD), tl.float32),) * 4
    if HAS_DEND:
        dh, dc, dn, _ = _four(dend + memory, size, inside)
    last = (row * T + T - 1) * H + head
    gates += last * 4 * D + d
    before += last * 4 * D + d
    dx += last * 4 * D + d
    dy += last * D + d
    i, f, z, o = _four(gates, D, inside)
    _, c, n, m = _four(before, D, inside)
    dh += tl.load(dy, inside, 0.0)
    for t in range(T - 1, -1, -1):
        gates -= H * 4 * D
        before -= H * 4 * D
        dy -= H * D
        there = inside & (t > 0)
        next_i, next_f, next_z, next_o = _four(gates, D, there)
        _, next_c, next_n, next_m = _four(before, D, there)
        dy_next = tl.load(dy, there, 0.0).to(tl.float32)
        keep, write, _ = _shares(i, f, m)
        tanh, gate = _tanh(z), _sigmoid(o)
        c_after, n_after = keep * c + write * tanh, tl.where(inside, keep * n + write, 1)
        slope = gate * dh / n_after
        do = slope * c_after * (1 - gate)
        dc += slope
        dn -= slope * c_after / n_after
        dm = (dc * c + dn * n) * keep
        df, di, dz = dm * _sigmoid(-f), (dc * tanh + dn) * write, dc * write * (1 - tanh * tanh)
        dc *= keep
        dn *= keep
        _store_four(dx, D, di, df, dz, do, inside)
        dx -= H * 4 * D
        dh = tl.dot(di, R_i, dy_next, input_precision=PRECISION)
        dh = tl.dot(df, R_f, dh, input_precision=PRECISION)
        dh = tl.dot(dz, R_z, dh, input_precision=PRECISION)
        dh = tl.dot(do, R_o, dh, input_precision=PRECISION)
        i, f, z, o, c, n, m = next_i, next_f, next_z, next_o, next_c, next_n, next_m
    _store_four(dstart + memory, size, dh, dc, dn, dm, inside)
