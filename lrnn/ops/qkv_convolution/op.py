"""The short convolution of q, k and v before the delta rule, and the normalisation of q and k.

    z_t = sum_j w_j x_{t-(K-1)+j}    y_t = SiLU(z_t)    q_t = D^-1/2 y_t / |y_t|    k_t = y_t / |y_t|    v_t = y_t

where x holds the channels of q, k and v side by side, and |y| is the length of a head of D channels. A k_t that is
rounded to 16 bits does not have exactly length 1, so the op returns its squared length too. After these channels x may
hold others, which the op returns unchanged, so that one projection can compute all inputs of a mixer.

Forms (lrnn/ops/common/form.py): PyTorch, and on a GPU one kernel forward and one backward (operators.py), which read
and write everything once.
"""

import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Choice, Form, Kernel, choose_form
from lrnn.ops.common.precision import at_least_float32
from lrnn.ops.short_convolution.op import last_tokens, short_convolution

KERNEL = Kernel("triton", "lrnn.ops.qkv_convolution.operators")

Heads = tuple[Tensor, Tensor, Tensor, Tensor]  # q, k, v, |k|^2


def qkv_convolution(
    x: Tensor, weight: Tensor, heads: int, state: Tensor | None = None, *, form: Form = "auto"
) -> tuple[Heads, Tensor, Tensor]:
    """Run the convolution over T tokens.

    Args:
        x: (batch, T, 3 H D + R).
        weight: (3 H D, K); the last of the K taps is for the current token.
        heads: number of heads, H.
        state: the K - 1 tokens before these, (batch, K - 1, 3 H D); zeros when absent. With a state the op is a call of
            `short_convolution`, which then chooses the form.
        form: `auto`, `recurrent`, `chunked` (the same PyTorch code here) or `triton`.

    Returns:
        q, k, v (batch, T, H, D) in the dtype of x, and |k|^2 (batch, T, H) in float32 and without a gradient; the other
        channels (batch, T, R); the state after the last token.
    """
    channels, taps = weight.shape
    if state is None and _choose_form(form, x, weight) == "triton":
        from lrnn.ops.qkv_convolution.operators import qkv_convolution_op

        q, k, v, k_square, rest = qkv_convolution_op(x, weight, heads)
        return (q, k, v, k_square.detach()), rest, last_tokens(x[..., :channels], taps - 1)
    x, rest = x.split([channels, x.shape[-1] - channels], dim=-1)
    y, state = short_convolution(x, weight, None, state, form=form)
    return unit_heads(y, heads), rest, state


def _choose_form(form: Form, x: Tensor, weight: Tensor) -> Choice:
    return choose_form("qkv_convolution", form, [x, weight], pytorch=("pytorch",), kernel=KERNEL)


def unit_heads(y: Tensor, heads: int) -> Heads:
    """Split y (batch, T, 3 H D) into q, k, v (batch, T, H, D), with q of length D^-1/2 and k of length 1; add |k|^2.

    |k|^2 (batch, T, H) is computed from k as rounded to the dtype of y.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in y.chunk(3, dim=-1))
    q = F.normalize(at_least_float32(q), dim=-1) * q.shape[-1] ** -0.5
    k = F.normalize(at_least_float32(k), dim=-1).to(y.dtype)
    return q.to(y.dtype), k, v, at_least_float32(k.detach()).square().sum(-1)
