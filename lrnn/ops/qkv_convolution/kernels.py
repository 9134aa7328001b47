"""Triton kernels of the convolution of q, k and v, with the glossary of lrnn/ops/qkv_convolution/op.py.

As in lrnn/ops/short_convolution/kernels.py, a program walks some channels through BT tokens. Here they are the channels
of R heads of q, k or v, so that the program can divide by their length. The gradient recomputes z and the length:

    dy_t = (r_t / |y_t|) (dq_t - y_t (y_t . dq_t) / |y_t|^2)     for q_t = r_t y_t / |y_t|, and for v dy_t = dv_t
    dz_t = dy_t SiLU'(z_t)      dx_t = sum_j w_j dz_{t+(K-1)-j}      dw_j = sum_t dz_t x_{t-(K-1)+j}
"""

import triton
import triton.language as tl

from lrnn.ops.common.exponential import silu
from lrnn.ops.short_convolution.kernels import as_float32, load_tokens, load_weights, newest

SHORTEST = tl.constexpr(1e-24)  # smallest squared length to divide by, as in PyTorch's normalize


@triton.jit
def _one_of(part, q, k, v):
    """Return the pointer to part 0, 1 or 2: q, k or v."""
    if part == 0:
        x = q
    elif part == 1:
        x = k
    else:
        x = v
    return x


@triton.jit
def _inverse_length(y):
    """Return 1 / |y|, (R, 1), for each head of y (R, BD)."""
    return tl.rsqrt(tl.maximum(tl.sum(y * y, 1), SHORTEST))[:, None]


@triton.jit
def _channels(D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr):
    """Return the channels of R heads, (R, BD); R D marks the columns beyond D, which hold no channel."""
    r, d = tl.arange(0, R)[:, None], tl.arange(0, BD)[None, :]
    c = r * D + d
    if D < BD:
        c = tl.where(d < D, c, R * D)
    return c


@triton.jit
def _length(part, D: tl.constexpr):
    """Target length: D^-1/2 for q, 1 for k."""
    return tl.where(part == 0, D**-0.5, 1.0)


@triton.jit
def _normalize(part, y, D: tl.constexpr):
    """Return q, k or v, made from y (R, BD); v is y itself."""
    if part < 2:
        y *= _inverse_length(y) * _length(part, D)
    return y


@triton.jit
def _normalize_gradient(part, y, dy, D: tl.constexpr):
    """Return the gradient of y, given that of q, k or v as `dy`."""
    if part < 2:
        r = _inverse_length(y)
        along = r * r * tl.sum(y * dy, 1)[:, None]
        dy = r * _length(part, D) * (dy - along * y)
    return dy


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    x, w, q, k, v, k_square, T, stride, H: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BT: tl.constexpr,
    R: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Shapes: x (batch, T, 3 H D) with rows `stride` apart, w (3 H D, K).

    q, k, v (batch, T, H, D), k_square (batch, T, H).
    """
    heads = tl.program_id(0) * R
    head, part = heads % H, heads // H
    b, first = tl.program_id(2).to(tl.int64), tl.program_id(1) * BT
    c = _channels(D, R, BD)
    x += b * T * stride + heads * D
    y_out = _one_of(part, q, k, v) + b * T * H * D + head * D
    k_square += b * T * H + head + tl.arange(0, R)
    taps, _ = load_weights(w + heads * D * K, w, c, R * D, K, False)
    xs = as_float32(load_tokens(x, first - K, T, stride, c, R * D, K))
    x_ahead = load_tokens(x, first, T, stride, c, R * D, GROUP)
    for group in range(first, tl.minimum(first + BT, T), GROUP):
        x_group, x_ahead = x_ahead, load_tokens(x, group + GROUP, T, stride, c, R * D, GROUP)
        for i in tl.static_range(GROUP):
            t = group + i
            xs = newest(x_group[i].to(tl.float32), xs)
            z = tl.zeros((R, BD), tl.float32)
            for j in tl.static_range(K):
                z += taps[j] * xs[j]
            y = _normalize(part, silu(z)[0], D).to(q.dtype.element_ty)
            tl.store(y_out + t * H * D + c, y, (t < T) & (c < R * D))
            if part == 1:
                rounded = y.to(tl.float32)
                tl.store(k_square + t * H, tl.sum(rounded * rounded, 1), t < T)


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    x, w, dq, dk, dv, dx, dw, T, stride, dx_stride, H: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BT: tl.constexpr,
    R: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; dx (batch, T, 3 H D) with rows `dx_stride` apart, dw (batch, blocks of tokens, K, 3 H D).

    dw holds one share for each program, which the caller sums.
    """
    heads = tl.program_id(0) * R
    head, part = heads % H, heads // H
    b, first = tl.program_id(2).to(tl.int64), tl.program_id(1) * BT
    share = b * tl.num_programs(1) + tl.program_id(1)
    c = _channels(D, R, BD)
    x += b * T * stride + heads * D
    dy_in = _one_of(part, dq, dk, dv) + b * T * H * D + head * D
    dx += b * T * dx_stride + heads * D
    dw += share * K * 3 * H * D + heads * D
    taps, _ = load_weights(w + heads * D * K, w, c, R * D, K, False)
    dzs, dws = (), ()
    for _ in tl.static_range(K):
        dzs += (tl.zeros((R, BD), tl.float32),)
        dws += (tl.zeros((R, BD), tl.float32),)
    xs = as_float32(load_tokens(x, first - K, T, stride, c, R * D, K))
    x_ahead = load_tokens(x, first, T, stride, c, R * D, GROUP)
    dy_ahead = load_tokens(dy_in, first, T, H * D, c, R * D, GROUP)
    for group in range(first, tl.minimum(first + BT, T) + K - 1, GROUP):  # dx of a token needs dz of the K - 1 after it
        x_group, x_ahead = x_ahead, load_tokens(x, group + GROUP, T, stride, c, R * D, GROUP)
        dy_group, dy_ahead = dy_ahead, load_tokens(dy_in, group + GROUP, T, H * D, c, R * D, GROUP)
        for i in tl.static_range(GROUP):
            t = group + i
            xs, dy = newest(x_group[i].to(tl.float32), xs), dy_group[i].to(tl.float32)
            z = tl.zeros((R, BD), tl.float32)
            for j in tl.static_range(K):
                z += taps[j] * xs[j]
            y, slope = silu(z)
            dz = _normalize_gradient(part, y, dy, D) * slope
            dzs = newest(dz, dzs)
            dz = tl.where(t < first + BT, dz, 0.0)  # the tokens after it belong to the next program
            dx_t, sums = tl.zeros((R, BD), tl.float32), ()
            for j in tl.static_range(K):
                sums += (dws[j] + dz * xs[j],)
                dx_t += taps[j] * dzs[K - 1 - j]
            dws = sums
            t -= K - 1
            tl.store(dx + t * dx_stride + c, dx_t, (t >= first) & (t < first + BT) & (t < T) & (c < R * D))
    for j in tl.static_range(K):
        tl.store(dw + j * 3 * H * D + c, dws[j], c < R * D)
