"""The selective scan: a diagonal linear RNN, the state of Mamba.

    h_t = a_t * h_{t-1} + dt_t * B_t * u_t        a_t = s * exp(dt_t * A) - (s - 1)        y_t = C_t . h_t + skip * u_t

Glossary: D channels, each with N states and its own decay rates A < 0, (D, N), and a weight `skip` of its input in the
output. The step sizes dt > 0, (D,), and the input and output vectors B, C, (N,), depend on the token. s = 1 is Mamba's
own transition with eigenvalues in (0, 1); s = 2 stretches it to (-1, 1). The input term is the same in both ranges
(Grazzi et al. 2025, Table 1 and Figure 11).

Forms of the same function (lrnn/ops/common/form.py):
- `recurrent` (recurrent.py) is the specification, differentiated by autograd;
- `chunked` (chunked.py) works on `chunk_size` tokens at a time, with a gradient written by hand;
- `triton` (operators.py) runs on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lrnn.ops.common.choice import check_chunk_size
from lrnn.ops.common.eigenvalue_range import range_scale
from lrnn.ops.common.form import Form, Kernel, choose_form
from lrnn.ops.common.precision import at_least_float32
from lrnn.ops.common.underflow import softplus
from lrnn.ops.selective_scan.chunked import Chunked, default_chunk_size, without_gradient
from lrnn.ops.selective_scan.recurrent import recurrent

KERNEL = Kernel("triton", "lrnn.ops.selective_scan.operators")


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    eigenvalue_range: Sequence[float],
    initial_state: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    form: Form = "auto",
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the selective scan over T tokens.

    Args:
        u, dt: inputs and step sizes, (batch, T, D).
        A: decay rates, negative, (D, N).
        B, C: input and output vectors, (batch, T, N).
        skip: weights of the inputs in the outputs, (D,).
        eigenvalue_range: (0, 1) or (-1, 1).
        initial_state: (batch, D, N); zeros when absent.
        dt_bias: (D,); where given, the step sizes are `step_sizes(dt, dt_bias)`. On a GPU this is faster than to call
            that function, since the kernel computes its gradient.
        form: `auto`, `recurrent`, `chunked` or `triton`.
        chunk_size: number of tokens in a chunk of the chunked form; by default 64 on a GPU. A CPU by default takes as
            many as have states that stay in the cache: at most 64 with a gradient, and any number without.

    Returns:
        outputs (batch, T, D) in the dtype of `u`, and the final state (batch, D, N), held in float32
        (float64 when the inputs are).

    Raises:
        ValueError: another range, shapes that do not fit together, T is 0, or `chunk_size` is below 1.
    """
    s = range_scale(eigenvalue_range, "selective_scan: eigenvalue_range")
    (batch, T, D), N = u.shape, A.shape[-1]
    fits = dt.shape == u.shape and A.shape == (D, N) and B.shape == (batch, T, N) == C.shape and skip.shape == (D,)
    if not fits:
        raise ValueError(
            "selective_scan: u and dt must be (batch, T, D), A (D, N), B and C (batch, T, N), skip (D,); "
            f"got {', '.join(str(tuple(x.shape)) for x in (u, dt, A, B, C, skip))}"
        )
    if initial_state is not None and initial_state.shape != (batch, D, N):
        raise ValueError(f"selective_scan: initial_state must be {(batch, D, N)}, got {tuple(initial_state.shape)}")
    if dt_bias is not None and dt_bias.shape != (D,):
        raise ValueError(f"selective_scan: dt_bias must be {(D,)}, got {tuple(dt_bias.shape)}")
    if T == 0:
        raise ValueError("selective_scan: the sequence must hold at least one token")
    check_chunk_size("selective_scan", chunk_size)
    source = None
    if dt_bias is not None:
        source, dt = dt, step_sizes(dt, dt_bias)
    tensors = [x for x in (u, dt, A, B, C, skip, initial_state) if x is not None]
    chosen = choose_form("selective_scan", form, tensors, kernel=KERNEL)
    if chosen == "triton":
        from lrnn.ops.selective_scan.operators import selective_scan_op

        if dt_bias is not None:  # the kernel computes the gradient of the softplus
            dt, dt_bias = dt.detach(), at_least_float32(dt_bias)
        keep_starts = torch.is_grad_enabled()
        return selective_scan_op(u, dt, A, B, C, skip, initial_state, source, dt_bias, s, keep_starts)[:2]
    dtype, out_dtype = torch.promote_types(u.dtype, torch.float32), u.dtype
    skipped = u.to(dtype) * skip.to(dtype)
    # time first, and D last so that the innermost loops are long: u, dt (T, batch, D), A (N, D), B, C (T, batch, N)
    u, dt, A, B, C = (x.to(dtype).transpose(0, 1).contiguous() for x in (u, dt, A, B, C))
    if initial_state is None:
        initial_state = u.new_zeros(batch, D, N)
    h = initial_state.to(dtype).mT
    with torch.autocast(u.device.type, enabled=False):  # the state stays in float32
        if chosen == "recurrent":
            y, h = recurrent(u, dt, A, B, C, h, s)
        elif not torch.is_grad_enabled() and chunk_size is None and not u.is_cuda:
            y, h = without_gradient(u, dt, A, B, C, h, s)
        else:
            if chunk_size is None:
                chunk_size = default_chunk_size(batch, D, N, u.is_cuda)
            y, h = Chunked.apply(u, dt, A, B, C, h, s, chunk_size)
    return (y.transpose(0, 1) + skipped).to(out_dtype), h.mT


def step_sizes(source: Tensor, dt_bias: Tensor) -> Tensor:
    """Return softplus(source + dt_bias), computed in at least float32, in the shape and the dtype of `source`."""
    return softplus(at_least_float32(source) + dt_bias).to(source.dtype)
