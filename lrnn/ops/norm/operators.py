"""torch.library operators around the Triton kernels of the RMS norm (kernels.py), which torch.compile can trace."""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.norm.kernels import backward_kernel, forward_kernel

TILE = 2048  # numbers that a program holds at a time: whole rows of the residual stream, at least one
PROGRAMS = 512  # of the backward kernel: each writes its share of the gradient of the weight


@torch.library.custom_op("lrnn::add_norm", mutates_args=())
def add_norm_op(x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return s = x + y (..., D) in the dtype of x, and its norm in `dtype`."""
    x, y, weight, (rows, sizes) = x.contiguous(), y.contiguous(), weight.contiguous(), _sizes(x)
    s, h = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    forward_kernel[(cdiv(rows, sizes["BR"]),)](x, y, weight, s, h, rows, eps, HAS_Y=True, **sizes)
    return s, h


@add_norm_op.register_fake
def _(x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=dtype)


@torch.library.custom_op("lrnn::add_norm_backward", mutates_args=())
def add_norm_backward(
    s: Tensor, weight: Tensor, ds: Tensor | None, dh: Tensor, eps: float, y_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, y and weight."""
    s, dy = s.contiguous(), s.new_empty(s.shape, dtype=y_dtype)
    dx, dweight = _gradients(s, weight, None if ds is None else ds.contiguous(), dh, eps, dy)
    return dx, dy, dweight


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


@torch.library.custom_op("lrnn::rms_norm", mutates_args=())
def rms_norm_op(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return the norm of x (..., D), in the dtype of x."""
    x, weight, (rows, sizes) = x.contiguous(), weight.contiguous(), _sizes(x)
    h = torch.empty_like(x)
    forward_kernel[(cdiv(rows, sizes["BR"]),)](x, None, weight, None, h, rows, eps, HAS_Y=False, **sizes)
    return h


@rms_norm_op.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("lrnn::rms_norm_backward", mutates_args=())
def rms_norm_backward(x: Tensor, weight: Tensor, dh: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight."""
    return _gradients(x.contiguous(), weight, None, dh, eps, None)


@rms_norm_backward.register_fake
def _(x: Tensor, weight: Tensor, dh: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep_norm(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _norm_backward(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor, None]:
    return *rms_norm_backward(*ctx.saved_tensors, dh, ctx.eps), None


rms_norm_op.register_autograd(_norm_backward, setup_context=_keep_norm)


def _gradients(
    s: Tensor, weight: Tensor, ds: Tensor | None, dh: Tensor, eps: float, dy: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, which are also written to `dy`, and of weight."""
    weight, dh, (rows, sizes) = weight.contiguous(), dh.contiguous(), _sizes(s)
    dx, programs = torch.empty_like(s), min(PROGRAMS, cdiv(rows, sizes["BR"]))
    dweight = s.new_empty(programs, s.shape[-1], dtype=torch.float32)
    backward_kernel[(programs,)](
        s, weight, ds, dh, dx, dy, dweight, rows, eps, HAS_DS=ds is not None, HAS_Y=dy is not None, **sizes
    )
    return dx, dweight.sum(0).to(weight.dtype)


def _sizes(x: Tensor) -> tuple[int, dict[str, int]]:
    """Return the number of rows of x (..., D), and the sizes for the kernels."""
    D = x.shape[-1]
    BD = next_power_of_2(D)
    return x.numel() // D, {"D": D, "BD": BD, "BR": max(1, TILE // BD), "num_warps": 4 if BD <= TILE else 8}
