"""torch.library operators around the Triton kernels of the convolution of q, k and v (kernels.py).

torch.compile traces them without a graph break.
"""

from math import gcd
from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.common.offsets import refuse_longer_sequences
from lrnn.ops.qkv_convolution.kernels import backward_kernel, forward_kernel
from lrnn.ops.short_convolution.operators import ANY_STRIDES, evenly_spaced_rows

# for each program: channels (of whole heads, at least one), tokens, and tokens that it reads at once
FORWARD = {"channels": 128, "BT": 32, "GROUP": 4, "num_warps": 1}
BACKWARD = {"channels": 128, "BT": 64, "GROUP": 4, "num_warps": 1}


@torch.library.custom_op("lrnn::qkv_convolution", mutates_args=(), tags=ANY_STRIDES)
def qkv_convolution_op(x: Tensor, weight: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return q, k, v (batch, T, H, D), |k|^2 (batch, T, H) and the other channels (batch, T, R).

    x is (batch, T, 3 H D + R), with zeros before its start, and the weight is (3 H D, K).
    """
    batch, T, C = x.shape
    refuse_longer_sequences("qkv_convolution", T, max(C, x.stride(1)))
    x, weight = evenly_spaced_rows(x), weight.contiguous()
    q, k, v, k_square, rest = _outputs(x, weight, heads)
    rest.copy_(x[..., len(weight) :])
    sizes = _sizes(q, weight, **FORWARD)
    forward_kernel[(3 * heads // sizes["R"], cdiv(T, sizes["BT"]), batch)](
        x, weight, q, k, v, k_square, T, x.stride(1), **sizes
    )
    return q, k, v, k_square, rest


@qkv_convolution_op.register_fake
def _(x: Tensor, weight: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _outputs(x, weight, heads)


@torch.library.custom_op("lrnn::qkv_convolution_backward", mutates_args=(), tags=ANY_STRIDES)
def qkv_convolution_backward(
    x: Tensor, weight: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, drest: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight."""
    (batch, T, _), (C, K), sizes = x.shape, weight.shape, _sizes(dq, weight, **BACKWARD)
    x, weight = evenly_spaced_rows(x), weight.contiguous()
    dq, dk, dv = dq.contiguous(), dk.contiguous(), dv.contiguous()
    dx, blocks = x.new_empty(x.shape), cdiv(T, sizes["BT"])
    dx[..., C:] = drest
    dw = x.new_empty(batch * blocks, K, C, dtype=torch.float32)
    backward_kernel[(3 * sizes["H"] // sizes["R"], blocks, batch)](
        x, weight, dq, dk, dv, dx, dw, T, x.stride(1), dx.stride(1), **sizes
    )
    return dx, dw.sum(0).mT.to(weight.dtype).contiguous()


@qkv_convolution_backward.register_fake
def _(x: Tensor, weight: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, drest: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor, _: Tensor, drest: Tensor) -> tuple[Tensor, Tensor, None]:
    return *qkv_convolution_backward(*ctx.saved_tensors, dq, dk, dv, drest), None


qkv_convolution_op.register_autograd(_backward, setup_context=_keep)


def _outputs(x: Tensor, weight: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate q, k, v, |k|^2 and the other channels."""
    (batch, T, channels), C = x.shape, len(weight)
    q, k, v = (x.new_empty(batch, T, heads, C // (3 * heads)) for _ in range(3))
    return q, k, v, x.new_empty(batch, T, heads, dtype=torch.float32), x.new_empty(batch, T, channels - C)


def _sizes(q: Tensor, weight: Tensor, channels: int, **options: int) -> dict[str, int]:
    """Return the sizes for the kernels, for q (batch, T, H, D) and the weight (3 H D, K); a program takes R heads."""
    H, D = q.shape[2:]
    BD = next_power_of_2(D)
    R = gcd(H, max(1, channels // BD))
    return {"H": H, "D": D, "K": weight.shape[1], "R": R, "BD": BD, **options}
