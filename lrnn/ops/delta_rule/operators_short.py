"""torch.library operators around the Triton kernels of the delta rule that keep a head on the chip (kernels_short.py).

They are faster than the long ones for short sequences, and the only ones of ours for float32 and with a gate.
torch.compile traces them without a graph break.
"""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.common.cards import card_of
from lrnn.ops.common.offsets import refuse_longer_sequences
from lrnn.ops.delta_rule.configurations import short_warps
from lrnn.ops.delta_rule.kernels_short import backward_kernel, forward_kernel

CHUNK = 16  # tokens: the fewest that the matrix units take


@torch.library.custom_op("lrnn::delta_rule_short", mutates_args=())
def delta_rule_op(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, H, V) and the final state (B, H, K, V) in float32; q, k, v have one dtype.

    The state decays by exp(log_gate) (B, T, H) before each token, if that is given.
    """
    (B, T, H, K), V = q.shape, v.shape[-1]
    refuse_longer_sequences("delta_rule", T, H * max(K, V))
    o, S_end = v.new_empty(v.shape), v.new_empty(B, H, K, V, dtype=torch.float32)
    q, k, v, beta = (x.contiguous() for x in (q, k, v, beta))
    S0, gate = (None if x is None else x.contiguous() for x in (initial_state, log_gate))
    forward_kernel[(B * H,)](
        q, k, v, beta, beta if gate is None else gate, S0, o, S_end, T, H=H,
        HAS_S0=S0 is not None, **_tiles(v, K, gate is not None),
    )  # fmt: skip
    return o, S_end


@delta_rule_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    B, _, H, K = q.shape
    return v.new_empty(v.shape), v.new_empty(B, H, K, v.shape[-1], dtype=torch.float32)


@torch.library.custom_op("lrnn::delta_rule_short_backward", mutates_args=())
def delta_rule_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    do: Tensor,
    dS_end: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, beta, log_gate (empty without a gate), and the initial state."""
    (B, T, H, K), V = q.shape, v.shape[-1]
    q, k, v, beta, do = (x.contiguous() for x in (q, k, v, beta, do))
    S0, gate, dS_end = (None if x is None else x.contiguous() for x in (initial_state, log_gate, dS_end))
    dq, dk, dv, dbeta = (torch.empty_like(x) for x in (q, k, v, beta))
    dgate = beta.new_empty(0) if gate is None else torch.empty_like(gate)
    dS0 = v.new_empty(B, H, K, V, dtype=torch.float32)
    starts = v.new_empty(B, H, cdiv(T, CHUNK), K, V, dtype=torch.float32)
    backward_kernel[(B * H,)](
        q, k, v, beta, beta if gate is None else gate, S0, do, dS_end, dq, dk, dv, dbeta, dgate, dS0, starts, T, H=H,
        HAS_S0=S0 is not None, HAS_DS=dS_end is not None, **_tiles(v, K, gate is not None),
    )  # fmt: skip
    return dq, dk, dv, dbeta, dgate, dS0


@delta_rule_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    do: Tensor,
    dS_end: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, _, H, K = q.shape
    dS0 = v.new_empty(B, H, K, v.shape[-1], dtype=torch.float32)
    dq, dk, dv, dbeta = (x.new_empty(x.shape) for x in (q, k, v, beta))
    dgate = beta.new_empty(0) if log_gate is None else log_gate.new_empty(log_gate.shape)
    return dq, dk, dv, dbeta, dgate, dS0


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, do: Tensor | None, dS_end: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, beta, log_gate, S0 = ctx.saved_tensors
    do = torch.zeros_like(v) if do is None else do
    *gradients, dgate, dS0 = delta_rule_backward(q, k, v, beta, log_gate, S0, do, dS_end)
    return *gradients, None if log_gate is None else dgate, None if S0 is None else dS0


delta_rule_op.register_autograd(_backward, setup_context=_keep)


def _tiles(v: Tensor, K: int, gated: bool) -> dict[str, int | str]:
    V = v.shape[-1]
    BK, BV = (max(16, next_power_of_2(size)) for size in (K, V))
    return {
        "K": K, "V": V, "C": CHUNK, "BK": BK, "BV": BV,
        "PRECISION": "tf32x3" if v.dtype == torch.float32 else "tf32",
        "HAS_GATE": gated, "num_warps": short_warps(card_of(v.device), BK * BV, gated),
    }  # fmt: skip
