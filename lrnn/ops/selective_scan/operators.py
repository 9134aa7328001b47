"""torch.library operators around the Triton kernels of the selective scan (kernels.py).

States are (N, D), as in the kernels. torch.compile traces the operators without a graph break.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.selective_scan.kernels import adjoint_kernel, backward_kernel, forward_kernel

STATES = 16  # for each launch; with more states, outputs are summed over launches
CHUNK = 64
# channels of a program (BD), tokens of a group, registers of a thread: the fastest of some ten choices on an H100
FORWARD = {"BD": 16, "GROUP": 8}
ADJOINT = {"BD": 8, "GROUP": 8}
BACKWARD = {"BD": 16, "GROUP": 2, "maxnreg": 128}
PROGRAMS_PER_PROCESSOR = 16  # in the backward pass: as many as the registers of a processor allow


@torch.library.custom_op("lrnn::selective_scan", mutates_args=())
def selective_scan_op(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor | None, s: int, keep_starts: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (batch, T, D), the final state (batch, N, D) and the chunk starts (batch, chunks, N, D)."""
    (batch, T, D), N = u.shape, A.shape[0]
    BN, padded_N = _tiles(N)
    y = u.new_empty(u.shape, dtype=u.dtype if padded_N == BN else torch.float32)
    h_end = u.new_empty(batch, padded_N, D, dtype=torch.float32)
    starts = u.new_empty(batch, cdiv(T, CHUNK) if keep_starts else 0, padded_N, D, dtype=torch.float32)
    h0 = None if h0 is None else _pad(h0, padded_N, D)
    u, dt, A, B, C = u.contiguous(), dt.contiguous(), _pad(A, padded_N, D), _pad(B, T, padded_N), _pad(C, T, padded_N)
    for n0 in range(0, padded_N, BN):
        forward_kernel[(cdiv(D, FORWARD["BD"]), batch)](
            u, dt, A, B, C, h0, y, starts, h_end, T, n0, D=D, N=padded_N, S=s, BN=BN, CHUNK=CHUNK, **FORWARD,
            HAS_H0=h0 is not None, KEEP_STARTS=keep_starts, ACCUMULATE=n0 > 0, num_warps=1,
        )  # fmt: skip
    return y.to(u.dtype), h_end[:, :N].contiguous(), starts


@selective_scan_op.register_fake
def _(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor | None, s: int, keep_starts: bool
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, T, D), N = u.shape, A.shape[0]
    chunks = cdiv(T, CHUNK) if keep_starts else 0
    h_end = u.new_empty(batch, N, D, dtype=torch.float32)
    return u.new_empty(u.shape), h_end, u.new_empty(batch, chunks, _tiles(N)[1], D, dtype=torch.float32)


@torch.library.custom_op("lrnn::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_end: Tensor | None,
    s: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, dt, A, B, C and the initial state."""
    types = u.dtype, dt.dtype, A.dtype, B.dtype, C.dtype
    (batch, T, D), N = u.shape, A.shape[0]
    BN, padded_N = _tiles(N)
    chunks, blocks = cdiv(T, CHUNK), cdiv(D, BACKWARD["BD"])
    processors = torch.cuda.get_device_properties(u.device).multi_processor_count if u.is_cuda else 1  # interpreted
    programs = PROGRAMS_PER_PROCESSOR * processors
    dh_end = None if dh_end is None else _pad(dh_end, padded_N, D)
    u, dt, A, B, C = u.contiguous(), dt.contiguous(), _pad(A, padded_N, D), _pad(B, T, padded_N), _pad(C, T, padded_N)
    dy = dy.contiguous()

    def buffer(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    du, ddt = (u.new_empty(u.shape, dtype=x if padded_N == BN else torch.float32) for x in types[:2])
    dA, dh0 = buffer(batch, chunks, padded_N, D), buffer(batch, padded_N, D)
    ends = torch.empty_like(starts) if chunks > 1 else dh_end  # a single chunk ends where the sequence does
    dB, dC = (buffer(batch, blocks, T, padded_N) for _ in range(2))
    scratch = buffer(programs, CHUNK // BACKWARD["GROUP"], BN, BACKWARD["BD"])
    sizes = {"D": D, "N": padded_N, "S": s, "BN": BN, "CHUNK": CHUNK, "num_warps": 1}
    for n0 in range(0, padded_N, BN):
        if chunks > 1:
            adjoint_kernel[(cdiv(D, ADJOINT["BD"]), batch)](
                dt, A, C, dy, dh_end, ends, T, n0, HAS_DH=dh_end is not None, **sizes, **ADJOINT
            )
        backward_kernel[(programs,)](
            u, dt, A, B, C, starts, dy, ends, du, ddt, dA, dB, dC, dh0, scratch, T, n0, batch * chunks * blocks,
            HAS_ENDS=ends is not None, ACCUMULATE=n0 > 0, **sizes, **BACKWARD,
        )  # fmt: skip
    shares = dA.sum((0, 1))[:N], dB.sum(1)[..., :N], dC.sum(1)[..., :N]
    dA, dB, dC = (x.to(dtype).contiguous() for x, dtype in zip(shares, types[2:], strict=True))
    return du.to(types[0]), ddt.to(types[1]), dA, dB, dC, dh0[:, :N].contiguous()


@selective_scan_backward.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_end: Tensor | None,
    s: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dh0 = u.new_empty(u.shape[0], *A.shape, dtype=torch.float32)
    du, ddt, dA, dB, dC = (x.new_empty(x.shape) for x in (u, dt, A, B, C))
    return du, ddt, dA, dB, dC, dh0


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    u, dt, A, B, C, h0, s, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(u, dt, A, B, C, output[2])
    ctx.s, ctx.has_h0 = s, h0 is not None


def _backward(ctx: Any, dy: Tensor | None, dh_end: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    u, dt, A, B, C, starts = ctx.saved_tensors
    dy = torch.zeros_like(u) if dy is None else dy
    *gradients, dh0 = selective_scan_backward(u, dt, A, B, C, starts, dy, dh_end, ctx.s)
    return *gradients, dh0 if ctx.has_h0 else None, None, None


selective_scan_op.register_autograd(_backward, setup_context=_keep)


def _tiles(N: int) -> tuple[int, int]:
    """Return the number of states in a launch, and N rounded up to whole launches."""
    BN = min(STATES, next_power_of_2(N))
    return BN, cdiv(N, BN) * BN


def _pad(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return x (..., R, C) in float32, contiguous and padded with zeros to (..., rows, columns)."""
    return F.pad(x.float(), (0, columns - x.shape[-1], 0, rows - x.shape[-2])).contiguous()
