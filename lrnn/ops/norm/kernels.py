"""Triton kernels of the RMS norm, alone and after a residual connection, with the glossary of lrnn/ops/norm/op.py.

With n = s / sqrt(mean(s^2) + eps) and g = w dh the gradients are

    dx = dy = ds + (g - n mean(n g)) / sqrt(mean(s^2) + eps)        dw = sum_t n dh

A program holds some whole rows in registers. Without y, s is x.
"""

import triton
import triton.language as tl


@triton.jit
def _inverse_size(s, eps, D: tl.constexpr):
    """Return 1 / sqrt(mean(s^2) + eps), (BR, 1), for rows s (BR, BD) that are zero beyond D."""
    return tl.rsqrt(tl.sum(s * s, 1) / D + eps)[:, None]


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(x, y, w, s, h, rows, eps, HAS_Y: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr):
    """Shapes: x, y, s, h (rows, D), w (D,). A program takes BR rows."""
    row, d = tl.program_id(0) * BR + tl.arange(0, BR)[:, None], tl.arange(0, BD)[None, :]
    at, inside = row.to(tl.int64) * D + d, (row < rows) & (d < D)
    s_r = tl.load(x + at, inside, 0.0).to(tl.float32)
    if HAS_Y:
        s_r = (s_r + tl.load(y + at, inside, 0.0)).to(s.dtype.element_ty)
        tl.store(s + at, s_r, inside)
        s_r = s_r.to(tl.float32)
    n = s_r * _inverse_size(s_r, eps, D)
    tl.store(h + at, n * tl.load(w + d, d < D, 0.0), inside)


@triton.jit(do_not_specialize=["rows"])
def backward_kernel(
    s, w, ds, dh, dx, dy, dw, rows, eps, HAS_DS: tl.constexpr, HAS_Y: tl.constexpr, D: tl.constexpr, BR: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    """Shapes: as above; dw (programs, D) holds one share for each program, which the caller sums.

    A program takes BR rows at a time, and then skips those of the other programs.
    """
    d = tl.arange(0, BD)[None, :]
    w_d = tl.load(w + d, d < D, 0.0).to(tl.float32)
    dw_rows = tl.zeros((BR, BD), tl.float32)
    for first in range(tl.program_id(0) * BR, rows, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)[:, None]
        at, inside = row.to(tl.int64) * D + d, (row < rows) & (d < D)
        s_r = tl.load(s + at, inside, 0.0).to(tl.float32)
        dh_r = tl.load(dh + at, inside, 0.0).to(tl.float32)
        r = _inverse_size(s_r, eps, D)
        n, g = s_r * r, w_d * dh_r
        dx_r = r * (g - n * (tl.sum(n * g, 1) / D)[:, None])
        if HAS_DS:
            dx_r += tl.load(ds + at, inside, 0.0).to(tl.float32)
        tl.store(dx + at, dx_r, inside)
        if HAS_Y:
            tl.store(dy + at, dx_r, inside)
        dw_rows += n * dh_r
    tl.store(dw + tl.program_id(0) * D + d, tl.sum(dw_rows, 0)[None, :], d < D)
