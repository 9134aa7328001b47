"""A linear map that does not round the gradient of its weight to 16 bits.

Under autocast PyTorch computes dW = dy^T x in 16 bits and then casts it to float32. The matrix product accumulates in
float32 anyway, so on a GPU this op stores its float32 result. That is more exact, and saves a pass over the weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.precision import dtype_of_products


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x W^T for x (..., width_in) and W (width_out, width_in), in the dtype of autocast if it is on."""
    if not torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight)
    return _Linear.apply(x.to(dtype_of_products(x)), weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dy_rows, x_rows = dy.flatten(0, -2), x.flatten(0, -2)
        if dy.is_cuda:
            dweight = torch.mm(dy_rows.T, x_rows, out_dtype=weight.dtype)
        else:  # PyTorch has no such product on a CPU
            dweight = (dy_rows.T @ x_rows).to(weight.dtype)
        return dy @ weight.to(dy.dtype), dweight
