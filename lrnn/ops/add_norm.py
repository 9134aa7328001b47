"""The sum and the norm between the blocks of a network: what a branch gave is added to the residual stream, and what
the next branch reads is the sum, divided by its root mean square.

    s = x + y        h = s / sqrt(mean(s^2) + eps) * w

Forms (lrnn/ops/form.py): PyTorch's, and on a GPU one kernel each way (lrnn/ops/add_norm_triton.py), as everything here
is limited by memory: the stream is read and written once.
"""

import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.form import Form, choose_form
from lrnn.ops.precision import dtype_of_products

KERNELS = ("lrnn.ops.add_norm_triton",)


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
        from lrnn.ops.add_norm_triton import add_norm_op

        return add_norm_op(x, y, weight, eps, dtype)
    s = x + y.to(x.dtype)
    return s, F.rms_norm(s, weight.shape, weight.to(s.dtype), eps).to(dtype)
