"""The short convolution before a recurrence: a weighted sum of the last K tokens of each channel, and SiLU.

    z_t = bias + sum_j w_j x_{t-(K-1)+j}        y_t = z_t sigmoid(z_t)

Forms (lrnn/ops/common/form.py): PyTorch, as a sum of shifted products (faster on a CPU than conv1d, which needs
channels first), and on a GPU one kernel forward and one backward (operators.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Form, Kernel, choose_form

KERNEL = Kernel("triton", "lrnn.ops.short_convolution.operators")


def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, state: Tensor | None = None, *, form: Form = "auto"
) -> tuple[Tensor, Tensor]:
    """Run the convolution and SiLU over T tokens.

    Args:
        x: (batch, T, C).
        weight: (C, K); the last of the K taps is for the current token.
        bias: (C,).
        state: the K - 1 tokens before these, (batch, K - 1, C); zeros when absent.
        form: `auto`, `recurrent`, `chunked` (the same PyTorch code here) or `triton`.

    Returns:
        y (batch, T, C) and the state after the last token, both in the dtype of x.

    Raises:
        ValueError: shapes do not fit together.
    """
    (batch, _, C), taps = x.shape, weight.shape[1]
    expected = {"weight": (C, taps), "bias": (C,), "state": (batch, taps - 1, C)}
    for name, tensor in (("weight", weight), ("bias", bias), ("state", state)):
        if tensor is not None and tensor.shape != expected[name]:
            raise ValueError(f"short_convolution: {name} must be {expected[name]}, got {tuple(tensor.shape)}")
    if state is not None:
        state = state.to(x.dtype)
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if choose_form("short_convolution", form, tensors, pytorch=("pytorch",), kernel=KERNEL) == "triton":
        from lrnn.ops.short_convolution.operators import short_convolution_op

        if state is None:
            return short_convolution_op(x, weight, bias), last_tokens(x, taps - 1)
        x = torch.cat([state, x], dim=1)
        return short_convolution_op(x, weight, bias)[:, taps - 1 :], last_tokens(x, taps - 1)
    if state is None:
        state = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
    x = torch.cat([state, x], dim=1)  # (batch, K - 1 + T, C)
    T = x.shape[1] - taps + 1
    z = x[:, taps - 1 :] * weight[:, -1]
    for j in range(taps - 1):
        z = z + x[:, j : j + T] * weight[:, j]
    if bias is not None:
        z = z + bias
    return F.silu(z).to(x.dtype), last_tokens(x, taps - 1)


def last_tokens(x: Tensor, tokens: int) -> Tensor:
    """Return a copy of the last `tokens` tokens of x (batch, T, C), with zeros before its start.

    A view would keep all of x in memory as long as the state.
    """
    missing = max(0, tokens - x.shape[1])
    return F.pad(x[:, x.shape[1] - tokens + missing :], (0, 0, missing, 0))  # F.pad copies even if nothing is missing
