"""torch.library operators around the Triton kernels of SwiGLU (kernels.py), which torch.compile can trace."""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv

from lrnn.ops.swiglu.kernels import backward_kernel, forward_kernel

TILE = {"BD": 1024, "num_warps": 4}  # channels of a program


@torch.library.custom_op("lrnn::swiglu", mutates_args=())
def swiglu_op(gate_up: Tensor) -> Tensor:
    """Return SiLU(gate) * up (batch, T, D) of gate_up (batch, T, 2 D)."""
    gate_up, D = gate_up.contiguous(), gate_up.shape[-1] // 2
    y = gate_up.new_empty(*gate_up.shape[:-1], D)
    forward_kernel[(y.numel() // D, cdiv(D, TILE["BD"]))](gate_up, y, D=D, **TILE)
    return y


@swiglu_op.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


@torch.library.custom_op("lrnn::swiglu_backward", mutates_args=())
def swiglu_backward(gate_up: Tensor, dy: Tensor) -> Tensor:
    """Return the gradient of gate_up."""
    gate_up, dy, D = gate_up.contiguous(), dy.contiguous(), dy.shape[-1]
    dgate_up = torch.empty_like(gate_up)
    backward_kernel[(dy.numel() // D, cdiv(D, TILE["BD"]))](gate_up, dy, dgate_up, D=D, **TILE)
    return dgate_up


@swiglu_backward.register_fake
def _(gate_up: Tensor, dy: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> Tensor:
    return swiglu_backward(*ctx.saved_tensors, dy)


swiglu_op.register_autograd(_backward, setup_context=_keep)
