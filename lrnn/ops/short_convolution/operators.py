"""torch.library operators around the Triton kernels of the short convolution (kernels.py).

torch.compile traces them without a graph break.
"""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv

from lrnn.ops.common.offsets import refuse_longer_sequences
from lrnn.ops.short_convolution.kernels import backward_kernel, forward_kernel

# for each program: tokens, channels, and tokens that it reads at once
FORWARD = {"BT": 64, "BC": 256, "GROUP": 4, "num_warps": 2}
BACKWARD = {"BT": 128, "BC": 256, "GROUP": 4, "num_warps": 2}
# without this tag a compiler that pads the rows of x, a projection, would copy them into dense rows first
ANY_STRIDES = (torch.Tag.flexible_layout,)


@torch.library.custom_op("lrnn::short_convolution", mutates_args=(), tags=ANY_STRIDES)
def short_convolution_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return SiLU of the convolution of x (batch, T, C), with zeros before its start; weight (C, K), bias (C,)."""
    batch, T, C = x.shape
    refuse_longer_sequences("short_convolution", T, max(C, x.stride(1)))
    x, weight = evenly_spaced_rows(x), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = x.new_empty(batch, T, C)
    forward_kernel[(cdiv(C, FORWARD["BC"]), cdiv(T, FORWARD["BT"]), batch)](
        x, weight, bias, y, T, x.stride(1), C=C, K=weight.shape[1], HAS_BIAS=bias is not None, **FORWARD
    )
    return y


@short_convolution_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("lrnn::short_convolution_backward", mutates_args=(), tags=ANY_STRIDES)
def short_convolution_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; without a bias the last is empty."""
    (batch, T, C), K = x.shape, weight.shape[1]
    x, weight, dy = evenly_spaced_rows(x), weight.contiguous(), dy.contiguous()
    bias = None if bias is None else bias.contiguous()
    blocks = cdiv(T, BACKWARD["BT"])
    dx = x.new_empty(batch, T, C)
    dw = x.new_empty(batch * blocks, K, C, dtype=torch.float32)
    dbias = x.new_empty(batch * blocks, C if bias is not None else 0, dtype=torch.float32)
    backward_kernel[(cdiv(C, BACKWARD["BC"]), blocks, batch)](
        x, weight, bias, dy, dx, dw, dbias, T, x.stride(1), C=C, K=K, HAS_BIAS=bias is not None, **BACKWARD
    )
    return dx, dw.sum(0).mT.to(weight.dtype).contiguous(), dbias.sum(0)


@short_convolution_backward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dbias = x.new_empty(0 if bias is None else bias.shape, dtype=torch.float32)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), dbias


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = short_convolution_backward(x, weight, bias, dy)
    return dx, dweight, None if bias is None else dbias.to(bias.dtype)


short_convolution_op.register_autograd(_backward, setup_context=_keep)


def evenly_spaced_rows(x: Tensor) -> Tensor:
    """Return x itself if its rows are evenly spaced, as in one half of a projection; else a contiguous copy."""
    even = x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
    return x if even else x.contiguous()
