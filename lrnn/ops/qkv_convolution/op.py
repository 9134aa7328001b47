"""What stands before the delta rule: the short convolution of q, k and v, and the length of q and k.

    z_t = sum_j w_j x_{t-(K-1)+j}    y_t = SiLU(z_t)    q_t = D^-1/2 y_t / |y_t|    k_t = y_t / |y_t|    v_t = y_t

where x holds q's, k's and v's channels side by side, and lengths are those of a head of D channels. Rounded to 16 bits
k_t is not quite of length 1, so its squared length comes along. Behind them x may hold other channels, which are handed
through: so one projection gives all that a mixer reads.

Forms (lrnn/ops/common/form.py): PyTorch's, and on a GPU one kernel each way (operators.py): everything
is read and written once.
"""

import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Form, choose_form
from lrnn.ops.common.precision import at_least_float32
from lrnn.ops.short_convolution.op import last_tokens, short_convolution

KERNELS = ("lrnn.ops.qkv_convolution.operators",)

Heads = tuple[Tensor, Tensor, Tensor, Tensor]  # q, k, v, |k|^2


def qkv_convolution(
    x: Tensor, weight: Tensor, heads: int, state: Tensor | None = None, *, form: Form = "auto"
) -> tuple[Heads, Tensor, Tensor]:
    """Run the convolution over T tokens.

    Args:
        x: (batch, T, 3 H D + R).
        weight: (3 H D, K), its last tap on the current token.
        heads: H.
        state: the K - 1 tokens before, (batch, K - 1, 3 H D); zeros when absent.
        form: `auto`, `chunked`, `recurrent` (here the same) or `triton`.

    Returns:
        q, k, v (batch, T, H, D) in the dtype of x and |k|^2 (batch, T, H), in float32 and without a gradient; the other
        channels (batch, T, R); the state after the last token.
    """
    channels, taps = weight.shape
    chosen = choose_form("qkv_convolution", form, [x, weight], KERNELS)
    if chosen == "triton" and state is None:
        from lrnn.ops.qkv_convolution.operators import qkv_convolution_op

        q, k, v, k_square, rest = qkv_convolution_op(x, weight, heads)
        return (q, k, v, k_square.detach()), rest, last_tokens(x[..., :channels], taps - 1)
    x, rest = x.split([channels, x.shape[-1] - channels], dim=-1)
    y, state = short_convolution(x, weight, None, state, form=form)
    return unit_heads(y, heads), rest, state


def unit_heads(y: Tensor, heads: int) -> Heads:
    """y (batch, T, 3 H D) -> q, k, v (batch, T, H, D), q of length D^-1/2 and k of length 1, and |k|^2 as rounded."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in y.chunk(3, dim=-1))
    q = F.normalize(at_least_float32(q), dim=-1) * q.shape[-1] ** -0.5
    k = F.normalize(at_least_float32(k), dim=-1).to(y.dtype)
    return q.to(y.dtype), k, v, at_least_float32(k.detach()).square().sum(-1)
