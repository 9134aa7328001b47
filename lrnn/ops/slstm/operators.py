"""torch.library operators around the Triton kernels of the sLSTM (kernels.py), which torch.compile can trace."""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.slstm.kernels import backward_kernel, forward_kernel

SEQUENCES = 16  # of a program; the smallest tile of a matrix product
PRECISION = "tf32x3"  # of products: that of float32


@torch.library.custom_op("lrnn::slstm", mutates_args=())
def slstm_op(x: Tensor, R: Tensor, start: Tensor | None, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs (B, T, H, D) and the final state (4, B, H, D): h, c, n, m. `start` is the initial state.

    With `keep` also return what the gradient needs: the gates' inputs and the states before each token, both
    (B, T, H, 4, D).
    """
    B, T, H, _, D = x.shape
    x, R, start = x.contiguous(), R.contiguous(), None if start is None else start.float().contiguous()
    y, end = x.new_empty(B, T, H, D), x.new_empty(4, B, H, D, dtype=torch.float32)
    gates, before = (x.new_empty(x.shape if keep else 0, dtype=torch.float32) for _ in range(2))
    forward_kernel[(cdiv(B, SEQUENCES), H)](
        x, R, start, y, end, gates, before, B, T, HAS_START=start is not None, KEEP=keep, **_options(H, D)
    )
    return y, end, gates, before


@slstm_op.register_fake
def _(x: Tensor, R: Tensor, start: Tensor | None, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, T, H, _, D = x.shape
    gates, before = (x.new_empty(x.shape if keep else 0, dtype=torch.float32) for _ in range(2))
    return x.new_empty(B, T, H, D), x.new_empty(4, B, H, D, dtype=torch.float32), gates, before


@torch.library.custom_op("lrnn::slstm_backward", mutates_args=())
def slstm_backward(
    R: Tensor, gates: Tensor, before: Tensor, dy: Tensor, dend: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, of R, and of the initial state (4, B, H, D), in float32."""
    B, T, H, _, D = gates.shape
    dx, dstart = torch.empty_like(gates), gates.new_empty(4, B, H, D)
    backward_kernel[(cdiv(B, SEQUENCES), H)](
        R.contiguous(), gates, before, dy.contiguous(), None if dend is None else dend.contiguous(), dx, dstart, B, T,
        HAS_DEND=dend is not None, **_options(H, D),
    )  # fmt: skip
    with torch.autocast(dx.device.type, enabled=False):
        # head by head: cuBLAS splits the long sum over the tokens of one product, and not of a batch of products
        heads = zip(before[:, :, :, 0].unbind(2), dx.flatten(3).unbind(2), strict=True)
        dR = torch.stack([h.flatten(0, 1).mT @ dgates.flatten(0, 1) for h, dgates in heads])
    return dx, dR, dstart


@slstm_backward.register_fake
def _(R: Tensor, gates: Tensor, before: Tensor, dy: Tensor, dend: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    B, _, H, _, D = gates.shape
    return torch.empty_like(gates), R.new_empty(R.shape, dtype=torch.float32), gates.new_empty(4, B, H, D)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, R, start, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(R, *output[2:])
    ctx.dtype, ctx.has_start = x.dtype, start is not None


def _backward(ctx: Any, dy: Tensor | None, dend: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    R, gates, before = ctx.saved_tensors
    dy = gates.new_zeros(gates[:, :, :, 0].shape) if dy is None else dy
    dx, dR, dstart = slstm_backward(R, gates, before, dy, dend)
    return dx.to(ctx.dtype), dR.to(R.dtype), dstart if ctx.has_start else None, None


slstm_op.register_autograd(_backward, setup_context=_keep)


def _options(H: int, D: int) -> dict[str, Any]:
    BD = max(16, next_power_of_2(D))
    return {"H": H, "D": D, "BB": SEQUENCES, "BD": BD, "PRECISION": PRECISION, "num_warps": 8 if BD > 32 else 4}
