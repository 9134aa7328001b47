"""Triton kernels of SwiGLU, with the glossary of lrnn/ops/swiglu/op.py.

The gradients of y = gate σ(gate) up are

    dgate = dy up σ(gate) (1 + gate (1 - σ(gate)))        dup = dy gate σ(gate)

A program takes BD channels of a token.
"""

import triton
import triton.language as tl

from lrnn.ops.common.exponential import silu


@triton.jit
def forward_kernel(gate_up, y, D: tl.constexpr, BD: tl.constexpr):
    """Shapes: gate_up (tokens, 2 D), y (tokens, D)."""
    t, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * BD + tl.arange(0, BD)
    at = gate_up + t * 2 * D + d
    gate = tl.load(at, d < D, 0.0).to(tl.float32)
    up = tl.load(at + D, d < D, 0.0).to(tl.float32)
    tl.store(y + t * D + d, silu(gate)[0] * up, d < D)


@triton.jit
def backward_kernel(gate_up, dy, dgate_up, D: tl.constexpr, BD: tl.constexpr):
    """Shapes: gate_up, dgate_up (tokens, 2 D), dy (tokens, D)."""
    t, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * BD + tl.arange(0, BD)
    at = t * 2 * D + d
    gate = tl.load(gate_up + at, d < D, 0.0).to(tl.float32)
    up = tl.load(gate_up + at + D, d < D, 0.0).to(tl.float32)
    dy_d = tl.load(dy + t * D + d, d < D, 0.0).to(tl.float32)
    gated, slope = silu(gate)
    tl.store(dgate_up + at, dy_d * up * slope, d < D)
    tl.store(dgate_up + at + D, dy_d * gated, d < D)
