"""torch.library operators around flash-linear-attention's kernels of the delta rule, without and with a gate.

torch.compile can't trace flash-linear-attention's own entry points, so the operators wrap the functions that they call.
"""

from typing import Any

import torch
from fla.ops.delta_rule.chunk import chunk_delta_rule_bwd, chunk_delta_rule_fwd
from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule_bwd, chunk_gated_delta_rule_fwd
from torch import Tensor

CHUNK = 64  # tokens


@torch.library.custom_op("lrnn::delta_rule_fla", mutates_args=(), device_types="cuda")
def delta_rule_op(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs (B, T, H, V), the final state (B, H, K, V) in float32, and two tensors for the backward pass.

    These are (I + A)^-1 (B, T, H, CHUNK), and the sums (B, T, H) of the log gates of a chunk up to each token, in base
    2; without a gate there are none.
    """
    q, k, v, beta = (x.contiguous() for x in (q, k, v, beta))
    gate, state = (None if x is None else x.contiguous() for x in (log_gate, initial_state))
    if gate is None:
        o, inverse, final_state = chunk_delta_rule_fwd(q, k, v, beta, 1.0, state, output_final_state=True)
        return o, final_state, inverse, beta.new_empty(0)
    sums, o, inverse, final_state, *_ = chunk_gated_delta_rule_fwd(
        q, k, v, gate, beta, 1.0, state, output_final_state=True
    )
    return o, final_state, inverse, sums


@delta_rule_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, T, H, K = q.shape
    return (
        v.new_empty(v.shape),
        v.new_empty(B, H, K, v.shape[-1], dtype=torch.float32),
        k.new_empty(B, T, H, CHUNK),
        beta.new_empty(0 if log_gate is None else (B, T, H)),
    )


@torch.library.custom_op("lrnn::delta_rule_fla_backward", mutates_args=(), device_types="cuda")
def delta_rule_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    sums: Tensor | None,
    initial_state: Tensor | None,
    inverse: Tensor,
    do: Tensor,
    dfinal_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, beta, log_gate and the initial state; those of the last two may be empty."""
    q, k, v, beta, do = (x.contiguous() for x in (q, k, v, beta, do))
    state, dfinal_state = (None if x is None else x.contiguous() for x in (initial_state, dfinal_state))
    if sums is None:
        dq, dk, dv, dbeta, dstate = chunk_delta_rule_bwd(q, k, v, beta, inverse, 1.0, state, do, dfinal_state)
        dgate = beta.new_empty(0)
    else:
        dq, dk, dv, dbeta, dgate, dstate, *_ = chunk_gated_delta_rule_bwd(
            q, k, v, sums, beta, inverse, 1.0, state, do, dfinal_state
        )
    if dstate is None:  # there was no initial state
        dstate = q.new_empty(0, dtype=torch.float32)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dbeta.to(beta.dtype), dgate.to(beta.dtype), dstate


@delta_rule_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    sums: Tensor | None,
    initial_state: Tensor | None,
    inverse: Tensor,
    do: Tensor,
    dfinal_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dstate = q.new_empty(0 if initial_state is None else initial_state.shape, dtype=torch.float32)
    dq, dk, dv, dbeta = (x.new_empty(x.shape) for x in (q, k, v, beta))
    dgate = beta.new_empty(0 if sums is None else sums.shape)
    return dq, dk, dv, dbeta, dgate, dstate


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    q, k, v, beta, log_gate, state = inputs
    _, _, inverse, sums = output
    ctx.save_for_backward(q, k, v, beta, None if log_gate is None else sums, state, inverse)


def _backward(ctx: Any, do: Tensor | None, dstate: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    q, k, v, beta, sums, state, inverse = ctx.saved_tensors
    do = torch.zeros_like(v) if do is None else do
    *gradients, dgate, dstate = delta_rule_backward(q, k, v, beta, sums, state, inverse, do, dstate)
    return *gradients, None if sums is None else dgate, None if state is None else dstate


delta_rule_op.register_autograd(_backward, setup_context=_keep)
