"""The delta product (Siems et al. 2025): each transition of a linear RNN is a product of n Householder matrices.

    S_{t,0} = g_t S_{t-1}                                                        the gate, once for each token
    S_{t,j} = (I - beta_{t,j} k_{t,j} k_{t,j}^T) S_{t,j-1} + beta_{t,j} k_{t,j} v_{t,j}^T       for j = 1, ..., n
    S_t     = S_{t,n}        o_t = S_t^T q_t                                     one output for each token

Glossary, one head: q, k of size K; v, o of size V; the state S is (K, V); beta and the gate g are scalars. With |k| = 1
and beta in [0, 2], a product of two reflections can be a rotation, whose eigenvalues are complex (Grazzi et al. 2025,
Proposition 1). With n = 1 and g = 1 this is the delta rule.

Forms of the same function (lrnn/ops/common/form.py):
- `recurrent` (recurrent.py) is the specification, one token at a time;
- `chunked` (chunked.py) works on `chunk_size` tokens with matrix products, with one query for each token;
- `triton` runs the kernels of the delta rule on n T tokens, whose queries between the reflections of a token are zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.cards import card_of
from lrnn.ops.common.choice import check_chunk_size
from lrnn.ops.common.form import Form, Kernel, choose_form
from lrnn.ops.delta_product.chunked import Chunked
from lrnn.ops.delta_product.recurrent import recurrent
from lrnn.ops.delta_rule.op import batch_of_heads, choose_kernel, obstacle_of, run_kernel

REFLECTIONS = 48  # in a chunk on a CPU: with 1 to 4 a token and heads of 16 to 64, within a tenth of the fastest


def delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    form: Form = "auto",
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the delta product over T tokens with n reflections each.

    Args:
        q: queries (B, T, H, K).
        k: L2-normalised keys (B, T, n, H, K).
        v: values (B, T, n, H, V).
        beta: step sizes in [0, 2], (B, T, n, H).
        log_gate: logarithms of the gates, at most 0, (B, T, H); gates are 1 when absent.
        initial_state: (B, H, K, V); zeros when absent.
        form: `auto`, `recurrent`, `chunked` or `triton`.
        chunk_size: largest number of tokens in a chunk of the chunked form; by default 32 on a GPU, and on a CPU as
            many as have 48 reflections.

    Returns:
        outputs (B, T, H, V) in the dtype of `v`, and the final state (B, H, K, V), held in float32
        (float64 when the inputs are).

    Raises:
        ValueError: shapes do not fit together, T is 0, or `chunk_size` is below 1.
    """
    _check(q, k, v, beta, log_gate, initial_state)
    check_chunk_size("delta_product", chunk_size)
    (B, T, n, H, K), V = k.shape, v.shape[-1]
    tensors = [x for x in (v, q, k, beta, log_gate, initial_state) if x is not None]
    card, gated = card_of(v.device), log_gate is not None
    kernel, obstacle = choose_kernel(n * T, K, V, v.dtype, card, gated), obstacle_of(v.dtype, K, V, card, gated)
    chosen = choose_form("delta_product", form, tensors, kernel=kernel, obstacle=obstacle)
    if chosen == "triton":
        return with_kernel(kernel, q, k, v, beta, log_gate, initial_state)
    dtype, out_dtype = torch.promote_types(v.dtype, torch.float32), v.dtype
    if initial_state is None:
        initial_state = v.new_zeros(B, H, K, V)
    state = initial_state.to(dtype).reshape(B * H, K, V)
    k, v, beta = (x.flatten(1, 2) for x in (k, v, beta[..., None]))
    q, k, v, beta = (batch_of_heads(x.to(dtype)) for x in (q, k, v, beta))
    log_gate = None if log_gate is None else batch_of_heads(log_gate.to(dtype)[..., None])
    with torch.autocast(v.device.type, enabled=False):  # the state stays in float32
        if chosen == "recurrent":
            o, state = recurrent(q, k, v, beta, log_gate, state)
        else:
            default = 32 if v.is_cuda else max(1, REFLECTIONS // n)
            o, state = Chunked.apply(q, k, v, beta, log_gate, state, chunk_size or default)
    return o.reshape(B, H, T, V).transpose(1, 2).to(out_dtype), state.reshape(B, H, K, V)


def with_kernel(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run a kernel of the delta rule, which takes a reflection for a token."""
    n = k.shape[2]
    q = F.pad(q[:, :, None], (0, 0, 0, 0, n - 1, 0))  # (B, T, n, H, K): zero but for the last reflection
    q, k, v, beta = (x.flatten(1, 2) for x in (q, k, v, beta))
    if log_gate is not None:
        log_gate = F.pad(log_gate[:, :, None], (0, 0, 0, n - 1)).flatten(1, 2)  # before the first reflection
    o, state = run_kernel(kernel, q, k, v, beta, log_gate, state)
    return o[:, n - 1 :: n], state


def _check(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, initial_state: Tensor | None
) -> None:
    if k.ndim != 5 or q.ndim != 4 or v.ndim != 5:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"delta_product: q, k, v must be (B, T, H, K), (B, T, n, H, K), (B, T, n, H, V); got {shapes}")
    (B, T, n, H, K), V = k.shape, v.shape[-1]
    expected = {"q": (B, T, H, K), "v": (B, T, n, H, V), "beta": (B, T, n, H)}
    expected |= {"log_gate": (B, T, H), "initial_state": (B, H, K, V)}
    for name, x in (("q", q), ("v", v), ("beta", beta), ("log_gate", log_gate), ("initial_state", initial_state)):
        if x is not None and x.shape != expected[name]:
            raise ValueError(f"delta_product: {name} must be {expected[name]}, got {tuple(x.shape)}")
    if T == 0 or n == 0:
        raise ValueError("delta_product: the sequence must hold at least one token, and a token one reflection")
