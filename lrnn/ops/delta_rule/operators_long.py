"""torch.library operators around the Triton kernels of the delta rule that spread over the chunks (kernels_long.py).

They take bfloat16 and float16. torch.compile traces them without a graph break.
"""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.common.cards import card_of
from lrnn.ops.common.offsets import refuse_longer_sequences
from lrnn.ops.delta_rule.configurations import SOLVE, Configuration, long_kernels
from lrnn.ops.delta_rule.kernels_long import adjoint_kernel, backward_kernel, forward_kernel, solve_kernel

CHUNK = 64  # tokens


@torch.library.custom_op("lrnn::delta_rule_long", mutates_args=())
def delta_rule_op(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, initial_state: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return outputs (B, T, H, V) and the final state (B, H, K, V) in float32; and L, G and the chunk starts.

    q, k, v have one dtype, and beta is in float32. The gradient needs L (B, T, H, CHUNK), G (B, T, H, V) and the states
    at the chunk starts (B, H, chunks, K, V); without `keep` the last two are empty.
    """
    (B, T, H, K), V = q.shape, v.shape[-1]
    refuse_longer_sequences("delta_rule", T, H * max(K, V, CHUNK))
    q, k, v, beta = (x.contiguous() for x in (q, k, v, beta))
    S0 = None if initial_state is None else initial_state.contiguous()
    o, S_end = v.new_empty(v.shape), v.new_empty(B, H, K, V, dtype=torch.float32)
    L, (G, starts) = k.new_empty(B, T, H, CHUNK), _kept(v, K, keep)
    sizes = {"H": H, "K": K, "C": CHUNK, "BK": _tile(K), "WHOLE": _whole(T, K, V)}
    chunks = cdiv(T, CHUNK)
    scratch = beta.new_empty(B * H * chunks, CHUNK, SOLVE["BLOCK"])
    solve_kernel[(chunks, B * H)](k, beta, L, scratch, T, **sizes, **SOLVE)
    options = _columns(V, long_kernels(card_of(q.device), max(K, V))["forward"])
    forward_kernel[(cdiv(V, options["BV"]), B * H)](
        q, k, v, beta, L, S0, o, G, starts, S_end, T, V=V, HAS_S0=S0 is not None, KEEP=keep, **sizes, **options
    )
    return o, S_end, L, G, starts


@delta_rule_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, initial_state: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, T, H, K), V = q.shape, v.shape[-1]
    L = k.new_empty(B, T, H, CHUNK)
    return v.new_empty(v.shape), v.new_empty(B, H, K, V, dtype=torch.float32), L, *_kept(v, K, keep)


@torch.library.custom_op("lrnn::delta_rule_long_backward", mutates_args=())
def delta_rule_backward(
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    L: Tensor,
    G: Tensor,
    starts: Tensor,
    do: Tensor,
    dS_end: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, beta and the initial state."""
    (B, T, H, K), V = q.shape, do.shape[-1]
    q, k, beta, do = (x.contiguous() for x in (q, k, beta, do))
    dS_end = None if dS_end is None else dS_end.contiguous()
    dq, dk, dv, dbeta, dR = (torch.empty_like(x) for x in (q, k, do, beta, do))
    dS0, ends = q.new_empty(B, H, K, V, dtype=torch.float32), torch.empty_like(starts)
    sizes = {"H": H, "K": K, "V": V, "C": CHUNK, "WHOLE": _whole(T, K, V)}
    configurations = long_kernels(card_of(q.device), max(K, V))
    options = _columns(V, configurations["adjoint"])
    adjoint_kernel[(cdiv(V, options["BV"]), B * H)](
        q, k, beta, L, do, dS_end, dR, ends, dS0, T, HAS_DS=dS_end is not None, BK=_tile(K), **sizes, **options
    )
    options = {**configurations["backward"], "BK": min(configurations["backward"]["BK"], _tile(K))}
    backward_kernel[(cdiv(T, CHUNK), B * H)](
        q, k, beta, G, starts, do, dR, ends, dq, dk, dv, dbeta, T, BV=_tile(V), **sizes, **options
    )
    return dq, dk, dv, dbeta, dS0


@delta_rule_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    L: Tensor,
    G: Tensor,
    starts: Tensor,
    do: Tensor,
    dS_end: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, _, H, K = q.shape
    dq, dk, dv, dbeta = (x.new_empty(x.shape) for x in (q, k, do, beta))
    return dq, dk, dv, dbeta, q.new_empty(B, H, K, do.shape[-1], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    q, k, _, beta, S0, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, beta, *output[2:])
    ctx.has_S0 = S0 is not None


def _backward(ctx: Any, do: Tensor | None, dS_end: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    q, k, beta, L, G, starts = ctx.saved_tensors
    do = torch.zeros_like(G) if do is None else do
    *gradients, dS0 = delta_rule_backward(q, k, beta, L, G, starts, do, dS_end)
    return *gradients, dS0 if ctx.has_S0 else None, None


delta_rule_op.register_autograd(_backward, setup_context=_keep)


def _kept(v: Tensor, K: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Allocate G and the states at the chunk starts; without `keep`, empty tensors."""
    B, T, H, V = v.shape if keep else (0, 0, 0, 0)
    return v.new_empty(B, T, H, V), v.new_empty(B, H, cdiv(T, CHUNK), K, V)


def _tile(size: int) -> int:
    return max(16, next_power_of_2(size))


def _whole(T: int, K: int, V: int) -> bool:
    """Return whether all tiles are full, so that the kernels need no masks."""
    return T % CHUNK == 0 and _tile(K) == K and _tile(V) == V


def _columns(V: int, options: Configuration) -> Configuration:
    return {**options, "BV": min(options["BV"], _tile(V))}
