"""The sum and the norm between blocks on a GPU, as operators that torch.compile sees through; the kernels are in
lrnn/ops/kernels/add_norm.py."""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.kernels.add_norm import backward_kernel, forward_kernel

TILE = 2048  # numbers a program holds at a time: rows of the stream, at least one
PROGRAMS = 512  # of the gradient: each leaves a share of the weight's


@torch.library.custom_op("lrnn::add_norm", mutates_args=())
def add_norm_op(x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """s = x + y (..., D) in the dtype of x, and its norm in `dtype`."""
    x, y, (rows, sizes) = x.contiguous(), y.contiguous(), _sizes(x)
    s, h = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    forward_kernel[(cdiv(rows, sizes["BR"]),)](x, y, weight, s, h, rows, eps, **sizes)
    return s, h


@add_norm_op.register_fake
def _(x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=dtype)


@torch.library.custom_op("lrnn::add_norm_backward", mutates_args=())
def add_norm_backward(
    s: Tensor, weight: Tensor, ds: Tensor | None, dh: Tensor, eps: float, y_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, y and weight."""
    s, dh, (rows, sizes) = s.contiguous(), dh.contiguous(), _sizes(s)
    ds = None if ds is None else ds.contiguous()
    dx, dy = torch.empty_like(s), torch.empty_like(s, dtype=y_dtype)
    programs = min(PROGRAMS, cdiv(rows, sizes["BR"]))
    dweight = s.new_empty(programs, s.shape[-1], dtype=torch.float32)
    backward_kernel[(programs,)](s, weight, ds, dh, dx, dy, dweight, rows, eps, HAS_DS=ds is not None, **sizes)
    return dx, dy, dweight.sum(0).to(weight.dtype)


@add_norm_backward.register_fake
def _(
    s: Tensor, weight: Tensor, ds: Tensor | None, dh: Tensor, eps: float, y_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return s.new_empty(s.shape), s.new_empty(s.shape, dtype=y_dtype), weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, y, weight, ctx.eps, _ = inputs
    ctx.y_dtype = y.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], weight)


def _backward(ctx: Any, ds: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:
    s, weight = ctx.saved_tensors
    if dh is None:
        return ds, None if ds is None else ds.to(ctx.y_dtype), None, None, None
    return *add_norm_backward(s, weight, ds, dh, ctx.eps, ctx.y_dtype), None, None


add_norm_op.register_autograd(_backward, setup_context=_keep)


def _sizes(x: Tensor) -> tuple[int, dict[str, int]]:
    """The rows of x (..., D), and the kernels' sizes."""
    D = x.shape[-1]
    BD = next_power_of_2(D)
    return x.numel() // D, {"D": D, "BD": BD, "BR": max(1, TILE // BD), "num_warps": 4 if BD <= TILE else 8}
