"""The RMS norm, alone and after a residual connection.

Between the blocks of a network, the output y of a branch is added to the residual stream x, and the next branch reads
the norm h of the sum s.

    s = x + y        h = s / sqrt(mean(s^2) + eps) * w

Forms (lrnn/ops/common/form.py): PyTorch, and on a GPU one kernel forward and one backward (operators.py). The op is
limited by memory bandwidth, and the kernels read and write the residual stream once.
"""

import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Form, Kernel, choose_form
from lrnn.ops.common.precision import at_least_float32, dtype_of_products

KERNEL = Kernel("triton", "lrnn.ops.norm.operators")


def add_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float, *, form: Form = "auto") -> tuple[Tensor, Tensor]:
    """Add the output y of a branch to the residual stream x, and normalise the sum.

    Args:
        x, y: (batch, T, D); y may have fewer bits than x, which sets the dtype of the sum.
        weight: scale of the norm, (D,).
        eps: added to the mean square.
        form: `auto`, `recurrent`, `chunked` (the same PyTorch code here) or `triton`.

    Returns:
        s (batch, T, D) in the dtype of x, and h (batch, T, D) in the dtype of matrix products, which read it.
    """
    dtype = dtype_of_products(x)
    if choose_form("add_norm", form, [x, y, weight], pytorch=("pytorch",), kernel=KERNEL) == "triton":
        from lrnn.ops.norm.operators import add_norm_op

        return add_norm_op(x, y, weight, eps, dtype)
    s = x + y.to(x.dtype)
    return s, _rms_norm(s, weight, eps).to(dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, form: Form = "auto") -> Tensor:
    """Normalise x: x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x: (batch, T, ..., D); the mean is over D.
        weight: scale of the norm, (D,).
        eps: added to the mean square.
        form: `auto`, `recurrent`, `chunked` (the same PyTorch code here) or `triton`.

    Returns:
        (batch, T, ..., D) in the dtype of x, computed in float32 at least.
    """
    if choose_form("rms_norm", form, [x, weight], pytorch=("pytorch",), kernel=KERNEL) == "triton":
        from lrnn.ops.norm.operators import rms_norm_op

        return rms_norm_op(x, weight, eps)
    return _rms_norm(at_least_float32(x), weight, eps).to(x.dtype)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
