"""What the kernels make of exp2, the only power that is one instruction.

SiLU and its slope are for kernels that are short of instructions: Triton's own sigmoid takes twelve, this one five.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def silu(z):
    """y = z σ(z) of float32 z and its slope σ(z) + y (1 - σ(z)), to some units in the last place; 0, 0 for z < -44.

    σ(z) = 1 / (1 + exp(-z)), and of 1 / x and an inverse root only the root is one instruction.
    """
    x = 1 + tl.exp2(z * -LOG2E)
    gate = tl.rsqrt(x * x)
    y = z * gate
    return y, gate + y * (1 - gate)
