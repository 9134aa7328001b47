"""The short convolution on a GPU: Triton kernels, with the glossary of lrnn/ops/short_convolution.py.

The work is limited by memory: a thread takes some channels through BT tokens, with the last K tokens in registers,
so that each is read once (but for the K - 1 at the edges). The gradient computes z once more instead of keeping it:

    dz_t = dy_t SiLU'(z_t)      dx_t = sum_j w_j dz_{t+(K-1)-j}      dw_j = sum_t dz_t x_{t-(K-1)+j}
"""

import triton
import triton.language as tl


@triton.jit
def _token(x, t, T, stride, c, C: tl.constexpr):
    """Token t of x (T, C) at channels c, in float32; zeros before the start and past the end."""
    return tl.load(x + t * stride + c, (t >= 0) & (t < T) & (c < C), 0.0).to(tl.float32)


@triton.jit
def _weights(w, bias, c, C: tl.constexpr, K: tl.constexpr, HAS_BIAS: tl.constexpr):
    """The taps as a tuple, and the bias: (BC,) each, in float32."""
    taps = ()
    for j in tl.static_range(K):
        taps += (tl.load(w + c * K + j, c < C, 0.0).to(tl.float32),)
    z0 = tl.zeros(c.shape, tl.float32)
    if HAS_BIAS:
        z0 = tl.load(bias + c, c < C, 0.0).to(tl.float32)
    return taps, z0


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    x, w, bias, y, T, stride, C: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """x (batch, T, C) with rows `stride` apart, w (C, K), bias (C,), y (batch, T, C)."""
    b, first = tl.program_id(2).to(tl.int64), tl.program_id(1) * BT
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    x += b * T * stride
    y += b * T * C
    taps, z0 = _weights(w, bias, c, C, K, HAS_BIAS)
    xs = ()
    for s in tl.static_range(BT + K - 1):
        xs += (_token(x, first - (K - 1) + s, T, stride, c, C),)
    for s in tl.static_range(BT):
        z = z0
        for j in tl.static_range(K):
            z += taps[j] * xs[s + j]
        tl.store(y + (first + s) * C + c, z * tl.sigmoid(z), (first + s < T) & (c < C))


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    x, w, bias, dy, dx, dw, dbias, T, stride, C: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """As above; dw (batch, blocks of tokens, K, C) and dbias (batch, blocks of tokens, C) are shares, to be summed."""
    b, first = tl.program_id(2).to(tl.int64), tl.program_id(1) * BT
    share = b * tl.num_programs(1) + tl.program_id(1)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    x += b * T * stride
    dy += b * T * C
    dx += b * T * C
    taps, z0 = _weights(w, bias, c, C, K, HAS_BIAS)
    zero = tl.zeros((BC,), tl.float32)
    xs, dzs, dws = (), (), ()
    dbias_sum = zero
    for _ in tl.static_range(K):
        dws += (zero,)
    for s in tl.static_range(K - 1):
        xs += (_token(x, first - (K - 1) + s, T, stride, c, C),)
    for s in tl.static_range(BT + K - 1):  # dx of a token needs dz of the K - 1 after it
        xs += (_token(x, first + s, T, stride, c, C),)
        z = z0
        for j in tl.static_range(K):
            z += taps[j] * xs[s + j]
        gate = tl.sigmoid(z)
        dz = _token(dy, first + s, T, C, c, C) * gate * (1 + z * (1 - gate))
        dzs += (dz,)
        if s < BT:
            dbias_sum += dz
            sums = ()
            for j in tl.static_range(K):
                sums += (dws[j] + dz * xs[s + j],)
            dws = sums
        if s >= K - 1:
            dx_t = zero
            for j in tl.static_range(K):
                dx_t += taps[j] * dzs[s - j]
            t = first + s - (K - 1)
            tl.store(dx + t * C + c, dx_t, (t < T) & (c < C))
    for j in tl.static_range(K):
        tl.store(dw + (share * K + j) * C + c, dws[j], c < C)
    if HAS_BIAS:
        tl.store(dbias + share * C + c, dbias_sum, c < C)
