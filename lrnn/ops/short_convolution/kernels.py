"""Triton kernels of the short convolution, with the glossary of lrnn/ops/short_convolution/op.py.

The op is limited by memory bandwidth. A thread walks some channels through BT tokens and holds the last K of them in
registers, so that it reads each token once, except for K - 1 at the edges. It loads the next GROUP tokens while it
computes with the current ones. The gradient recomputes z:

    dz_t = dy_t SiLU'(z_t)      dx_t = sum_j w_j dz_{t+(K-1)-j}      dw_j = sum_t dz_t x_{t-(K-1)+j}
"""

import triton
import triton.language as tl

from lrnn.ops.common.exponential import silu


@triton.jit
def load_tokens(x, t, T, stride, c, C: tl.constexpr, N: tl.constexpr):
    """Return tokens t to t + N - 1 of x (T, C) at channels c, as a tuple; zeros before the start and past the end."""
    tokens = ()
    for i in tl.static_range(N):
        tokens += (tl.load(x + (t + i) * stride + c, (t + i >= 0) & (t + i < T) & (c < C), 0.0),)
    return tokens


@triton.jit
def load_weights(w, bias, c, C: tl.constexpr, K: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Return the taps as a tuple, and the bias: (BC,) each, in float32."""
    taps = ()
    for j in tl.static_range(K):
        taps += (tl.load(w + c * K + j, c < C, 0.0).to(tl.float32),)
    z0 = tl.zeros(c.shape, tl.float32)
    if HAS_BIAS:
        z0 = tl.load(bias + c, c < C, 0.0).to(tl.float32)
    return taps, z0


@triton.jit
def as_float32(xs):
    """Convert the tokens once, rather than at each use."""
    converted = ()
    for j in tl.static_range(len(xs)):
        converted += (xs[j].to(tl.float32),)
    return converted


@triton.jit
def newest(x, past):
    """Append x to the tokens (oldest, ..., newest), and drop the oldest."""
    kept = ()
    for j in tl.static_range(1, len(past)):
        kept += (past[j],)
    kept += (x,)
    return kept


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    x, w, bias, y, T, stride, C: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
    HAS_BIAS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Shapes: x (batch, T, C) with rows `stride` apart, w (C, K), bias (C,), y (batch, T, C)."""
    b, first = tl.program_id(2).to(tl.int64), tl.program_id(1) * BT
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    x += b * T * stride
    y += b * T * C
    taps, z0 = load_weights(w, bias, c, C, K, HAS_BIAS)
    xs = as_float32(load_tokens(x, first - K, T, stride, c, C, K))
    x_ahead = load_tokens(x, first, T, stride, c, C, GROUP)
    for group in range(first, tl.minimum(first + BT, T), GROUP):
        x_group, x_ahead = x_ahead, load_tokens(x, group + GROUP, T, stride, c, C, GROUP)
        for i in tl.static_range(GROUP):
            t = group + i
            xs = newest(x_group[i].to(tl.float32), xs)
            z = z0
            for j in tl.static_range(K):
                z += taps[j] * xs[j]
            tl.store(y + t * C + c, silu(z)[0], (t < T) & (c < C))


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    x, w, bias, dy, dx, dw, dbias, T, stride, C: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
    HAS_BIAS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; dw (batch, blocks of tokens, K, C) and dbias (batch, blocks of tokens, C).

    dw and dbias hold one share for each program, which the caller sums.
    """
    b, first = tl.program_id(2).to(tl.int64), tl.program_id(1) * BT
    share = b * tl.num_programs(1) + tl.program_id(1)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    x += b * T * stride
    dy += b * T * C
    dx += b * T * C
    taps, z0 = load_weights(w, bias, c, C, K, HAS_BIAS)
    dbias_sum = tl.zeros((BC,), tl.float32)
    dzs, dws = (), ()
    for _ in tl.static_range(K):
        dzs += (tl.zeros((BC,), tl.float32),)
        dws += (tl.zeros((BC,), tl.float32),)
    xs = as_float32(load_tokens(x, first - K, T, stride, c, C, K))
    x_ahead, dy_ahead = load_tokens(x, first, T, stride, c, C, GROUP), load_tokens(dy, first, T, C, c, C, GROUP)
    for group in range(first, tl.minimum(first + BT, T) + K - 1, GROUP):  # dx of a token needs dz of the K - 1 after it
        x_group, x_ahead = x_ahead, load_tokens(x, group + GROUP, T, stride, c, C, GROUP)
        dy_group, dy_ahead = dy_ahead, load_tokens(dy, group + GROUP, T, C, c, C, GROUP)
        for i in tl.static_range(GROUP):
            t = group + i
            xs, dy_t = newest(x_group[i].to(tl.float32), xs), dy_group[i].to(tl.float32)
            z = z0
            for j in tl.static_range(K):
                z += taps[j] * xs[j]
            dz = dy_t * silu(z)[1]
            dzs = newest(dz, dzs)
            dz = tl.where(t < first + BT, dz, 0.0)  # the tokens after it belong to the next program
            dbias_sum += dz
            dx_t, sums = tl.zeros((BC,), tl.float32), ()
            for j in tl.static_range(K):
                sums += (dws[j] + dz * xs[j],)
                dx_t += taps[j] * dzs[K - 1 - j]
            dws = sums
            t -= K - 1
            tl.store(dx + t * C + c, dx_t, (t >= first) & (t < first + BT) & (t < T) & (c < C))
    for j in tl.static_range(K):
        tl.store(dw + (share * K + j) * C + c, dws[j], c < C)
    if HAS_BIAS:
        tl.store(dbias + share * C + c, dbias_sum, c < C)
