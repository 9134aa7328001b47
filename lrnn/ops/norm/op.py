"""The RMS norm, and the sum and the norm between the blocks of a network: what a branch gave is added to the residual
stream, and what the next branch reads is the norm of the sum.

    s = x + y        h = s / sqrt(mean(s^2) + eps) * w

Forms (lrnn/ops/common/form.py): PyTorch's, and on a GPU one kernel each way (operators.py), as everything here
is limited by memory: the stream is read and written once.
"""

import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Form, choose_form
from lrnn.ops.common.precision import at_least_float32, dtype_of_products

KERNELS = ("lrnn.ops.norm.operators",)


def add_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float, *, form: Form = "auto") -> tuple[Tensor, Tensor]:
    """Add the branch y to the residual stream x, and normalise.

    Args:
        x, y: (batch, T, D); y may be narrower than x, which sets the dtype of the sum.
        weight: (D,).
        eps: added to the mean square.
        form: `auto`, `chunked`, `recurrent` (here the same) or `triton`.

    Returns:
        s (batch, T, D) in the dtype of x, and h (batch, T, D), which matrix products read, in theirs.
    """
    dtype = dtype_of_products(x)
    if choose_form("add_norm", form, [x, y, weight], KERNELS) == "triton":
        from lrnn.ops.norm.operators import add_norm_op

        return add_norm_op(x, y, weight, eps, dtype)
    s = x + y.to(x.dtype)
    return s, _rms_norm(s, weight, eps).to(dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, form: Form = "auto") -> Tensor:
    """x (batch, T, ..., D) / sqrt(mean(x^2) + eps) * weight (D,), computed in float32 at least, in the dtype of x."""
    if choose_form("rms_norm", form, [x, weight], KERNELS) == "triton":
        from lrnn.ops.norm.operators import rms_norm_op

        return rms_norm_op(x, weight, eps)
    return _rms_norm(at_least_float32(x), weight, eps).to(x.dtype)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
