"""The delta rule: a linear RNN whose transition is a generalized Householder matrix.

    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t vt^T        o_t = S_t^T q_t

Glossary, one head: q, k of size K; v, o of size V; the state S is (K, V); beta is a scalar.
With |k| = 1 the transition has one eigenvalue 1 - beta and K - 1 ones, so beta in (0, 1) keeps the
eigenvalues in (0, 1) and beta in (0, 2) opens them to (-1, 1) (Grazzi et al. 2025, Table 1).

Forms of the same function (lrnn/ops/common/form.py):
- `recurrent` (recurrent.py) is the specification, one token at a time;
- `chunked` (chunked.py) works on `chunk_size` tokens with matrix products;
- `triton` runs one of three sets of kernels on a GPU. `operators_short.py` keeps a head's whole computation on the chip
  and never rounds the state to 16 bits: it runs for short sequences and in float32. `operators_long.py` spreads over
  the chunks. `operators_fla.py` calls flash-linear-attention's kernels, for heads larger than 128, and with a gate
  where the short kernels do not run.
  configurations.py has what depends on the card.
"""

import torch
from torch import Tensor

from lrnn.ops.common.cards import Card, card_of
from lrnn.ops.common.choice import check_chunk_size
from lrnn.ops.common.form import Form, Kernel, choose_form
from lrnn.ops.delta_rule.chunked import Chunked, final_state, without_gradient
from lrnn.ops.delta_rule.configurations import LARGEST_HEAD_OF_FLA, largest_head, most_tokens_of_short
from lrnn.ops.delta_rule.recurrent import recurrent

CHUNK_WITHOUT_GRADIENT = 32  # tokens, on a CPU: with heads of 16, chunks of 64 take up to three times as long
SHORT = Kernel("triton (short kernels)", "lrnn.ops.delta_rule.operators_short")
LONG = Kernel("triton (long kernels)", "lrnn.ops.delta_rule.operators_long")
FLA = Kernel("flash-linear-attention", "lrnn.ops.delta_rule.operators_fla")


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    *,
    form: Form = "auto",
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Run the delta rule over T tokens.

    Args:
        q, k: queries and L2-normalised keys, (B, T, H, K).
        v: values, (B, T, H, V).
        beta: step sizes in [0, 2], (B, T, H).
        initial_state: (B, H, K, V); zeros when absent.
        form: `auto`, `recurrent`, `chunked` or `triton`. The last computes in the dtype of `v`, with beta and the
            state in float32.
        chunk_size: number of tokens in a chunk of the chunked form.

    Returns:
        outputs (B, T, H, V) in the dtype of `v`, and the final state (B, H, K, V), held in float32
        (float64 when the inputs are).

    Raises:
        ValueError: shapes do not fit together, T is 0, or `chunk_size` is below 1.
    """
    _check(q, k, v, beta, initial_state)
    check_chunk_size("delta_rule", chunk_size)
    (B, T, H, K), V = q.shape, v.shape[-1]
    tensors = [x for x in (v, q, k, beta, initial_state) if x is not None]
    card = card_of(v.device)
    kernel = choose_kernel(T, K, V, v.dtype, card)
    chosen = choose_form("delta_rule", form, tensors, kernel=kernel, obstacle=obstacle_of(v.dtype, K, V, card))
    if chosen == "triton":
        return run_kernel(kernel, q, k, v, beta, None, initial_state)
    dtype = torch.promote_types(v.dtype, torch.float32)
    out_dtype = v.dtype
    q, k, v, beta = (batch_of_heads(x.to(dtype)) for x in (q, k, v, beta[..., None]))
    if initial_state is None:
        initial_state = v.new_zeros(B, H, K, V)
    state = initial_state.to(dtype).reshape(B * H, K, V)
    with torch.autocast(v.device.type, enabled=False):  # the state stays in float32
        if chosen == "recurrent":
            o, state = recurrent(q, k, v, beta, state)
        elif torch.is_grad_enabled() or v.is_cuda:
            o, state = Chunked.apply(q, k, v, beta, state, chunk_size)
        else:
            o, state = without_gradient(q, k, v, beta, state, min(chunk_size, CHUNK_WITHOUT_GRADIENT))
    return o.reshape(B, H, T, V).transpose(1, 2).to(out_dtype), state.reshape(B, H, K, V)


def delta_rule_state(
    k: Tensor, v: Tensor, beta: Tensor, initial_state: Tensor | None = None, *, form: Form = "auto"
) -> Tensor:
    """Return the final state of `delta_rule`. It does not depend on the queries, so a CPU computes half as much.

    Args:
        k, v, beta, initial_state, form: as of `delta_rule`. No gradient is computed.
    """
    (B, T, H, K), V = k.shape, v.shape[-1]
    if v.is_cuda or T == 1 or form == "recurrent":
        return delta_rule(k, k, v, beta, initial_state, form=form)[1]
    dtype = torch.promote_types(v.dtype, torch.float32)
    k, v, beta = (batch_of_heads(x.to(dtype)) for x in (k, v, beta[..., None]))
    state = v.new_zeros(B * H, K, V) if initial_state is None else initial_state.to(dtype).reshape(B * H, K, V)
    with torch.autocast(v.device.type, enabled=False), torch.no_grad():
        return final_state(k, v, beta, state, CHUNK_WITHOUT_GRADIENT).reshape(B, H, K, V)


def batch_of_heads(x: Tensor) -> Tensor:
    """Turn (B, rows, H, D) into a batch of independent heads (B H, rows, D)."""
    return x.transpose(1, 2).flatten(0, 1)


def choose_kernel(tokens: int, K: int, V: int, dtype: torch.dtype, card: Card, gated: bool = False) -> Kernel:
    """Choose the kernels for a number of tokens and for heads of K and V. With a gate, the long kernels do not run."""
    size = max(K, V)
    if size > largest_head(card, dtype, gated):
        return FLA
    if dtype == torch.float32 or tokens <= most_tokens_of_short(card, size, gated):
        return SHORT
    return FLA if card.races or gated else LONG


def _check(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, initial_state: Tensor | None) -> None:
    if q.shape != k.shape or q.shape[:3] != v.shape[:3] or q.shape[:3] != beta.shape:
        raise ValueError(
            "delta_rule: q, k, v, beta must be (B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H); "
            f"got {', '.join(str(tuple(x.shape)) for x in (q, k, v, beta))}"
        )
    (B, T, H, K), V = q.shape, v.shape[-1]
    if initial_state is not None and initial_state.shape != (B, H, K, V):
        raise ValueError(f"delta_rule: initial_state must be {(B, H, K, V)}, got {tuple(initial_state.shape)}")
    if T == 0:
        raise ValueError("delta_rule: the sequence must hold at least one token")


def obstacle_of(dtype: torch.dtype, K: int, V: int, card: Card, gated: bool = False) -> str | None:
    """Return the property of the input or of the card that no kernel can take, or None."""
    if card.capability < (8, 0):
        return "a GPU of compute capability {}.{}, only 8.0 and later".format(*card.capability)
    only_ours = dtype == torch.float32 or (gated and card.miscompiles_gates)
    largest = largest_head(card, dtype, gated) if only_ours else LARGEST_HEAD_OF_FLA
    if max(K, V) <= largest:
        return None
    heads = f"heads of {max(K, V)}{' with a gate' if gated else ''} in {dtype}"
    if dtype == torch.float32:
        return f"{heads}{'' if card.hopper else ' on this GPU'}, only up to {largest}"
    return f"{heads}, only up to {largest}{' before Triton 3.7.1' if only_ours else ''}"


def run_kernel(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run a kernel in the dtype of `v`; log_gate (B, T, H), if given, is of the decay before each token."""
    q, k, beta = q.to(v.dtype), k.to(v.dtype), beta.float()
    log_gate, state = (None if x is None else x.float() for x in (log_gate, state))
    if kernel == FLA:
        from lrnn.ops.delta_rule import operators_fla

        return operators_fla.delta_rule_op(q, k, v, beta, log_gate, state)[:2]
    if kernel == SHORT:
        from lrnn.ops.delta_rule import operators_short

        return operators_short.delta_rule_op(q, k, v, beta, log_gate, state)
    assert log_gate is None, "the long kernels have no gate"
    from lrnn.ops.delta_rule import operators_long

    return operators_long.delta_rule_op(q, k, v, beta, state, torch.is_grad_enabled())[:2]
