"""torch.library operators around the Triton kernels of the selective scan (kernels.py).

torch.compile traces them without a graph break.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from triton import cdiv, next_power_of_2

from lrnn.ops.selective_scan.kernels import adjoint_kernel, backward_kernel, forward_kernel

STATES = 16  # for each launch; with more states, outputs are summed over launches
CHUNK = 64
# Channels of a program (BD), tokens of a group, tokens that are read at once (WALK), registers of a thread: the fastest
# of those tried on an H100, see the rows "selective scan" of results/bench
FORWARD = {"BD": 16, "GROUP": 8}
FORWARD_FEW = {"BD": 16, "GROUP": 16}  # with few programs on each processor, a program has more loads on their way
FEW = 12  # programs on each processor; fewer are few
ADJOINT = {"BD": 8, "GROUP": 8}
ADJOINT_COST = 0.18  # time of the adjoint kernel for a chunk, as a share of the backward kernel's
BACKWARD = {"BD": 16, "GROUP": 2, "WALK": 8, "maxnreg": 128}


@torch.library.custom_op("lrnn::selective_scan", mutates_args=())
def selective_scan_op(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    h0: Tensor | None,
    source: Tensor | None,
    dt_bias: Tensor | None,
    s: int,
    keep_starts: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (batch, T, D), the final state (batch, D, N) and the chunk starts (batch, chunks, D, N).

    Where dt = softplus(source + dt_bias), give both, and dt without a gradient. The backward kernel then computes the
    gradients of source and of dt_bias in place of that of dt.
    """
    (batch, T, D), N = u.shape, A.shape[1]
    BN, padded_N = _tiles(N)
    y = u.new_empty(u.shape, dtype=u.dtype if padded_N == BN else torch.float32)
    h_end = u.new_empty(batch, D, padded_N, dtype=torch.float32)
    starts = u.new_empty(batch, cdiv(T, CHUNK) if keep_starts else 0, D, padded_N, dtype=torch.float32)
    h0 = None if h0 is None else _pad(h0, padded_N)
    u, dt, skip = u.contiguous(), dt.contiguous(), skip.contiguous()
    A, B, C = (_pad(x, padded_N) for x in (A, B, C))
    options = FORWARD_FEW if cdiv(D, FORWARD["BD"]) * batch < FEW * _processors(u.device) else FORWARD
    for n0 in range(0, padded_N, BN):
        forward_kernel[(cdiv(D, options["BD"]), batch)](
            u, dt, A, B, C, skip, h0, y, starts, h_end, T, n0, D=D, N=padded_N, S=s, BN=BN, CHUNK=CHUNK, **options,
            HAS_H0=h0 is not None, KEEP_STARTS=keep_starts, ACCUMULATE=n0 > 0, num_warps=1,
            WHOLE=_whole(u, N, padded_N, options),
        )  # fmt: skip
    return y.to(u.dtype), h_end[..., :N].contiguous(), starts


@selective_scan_op.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    h0: Tensor | None,
    source: Tensor | None,
    dt_bias: Tensor | None,
    s: int,
    keep_starts: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, T, D), N = u.shape, A.shape[1]
    chunks = cdiv(T, CHUNK) if keep_starts else 0
    h_end = u.new_empty(batch, D, N, dtype=torch.float32)
    return u.new_empty(u.shape), h_end, u.new_empty(batch, chunks, D, _tiles(N)[1], dtype=torch.float32)


@torch.library.custom_op("lrnn::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_end: Tensor | None,
    s: int,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, dt, A, B, C, skip, the initial state and the bias of the step sizes.

    With `softplus`, the second is that of the source of dt. Without it, there is no bias and the last is empty.
    """
    types = u.dtype, dt.dtype, A.dtype, B.dtype, C.dtype, skip.dtype
    (batch, T, D), N = u.shape, A.shape[1]
    BN, padded_N = _tiles(N)
    chunks, blocks = cdiv(T, CHUNK), cdiv(D, BACKWARD["BD"])
    at_once = _programs_at_once(u.device)
    part = CHUNK * _chunks_of_part(chunks, batch * blocks, at_once)  # tokens
    parts = cdiv(T, part)
    items = batch * parts * blocks
    programs = min(items, at_once)
    dh_end = None if dh_end is None else _pad(dh_end, padded_N)
    u, dt, dy, skip = u.contiguous(), dt.contiguous(), dy.contiguous(), skip.contiguous()
    A, B, C = (_pad(x, padded_N) for x in (A, B, C))

    def buffer(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    du, ddt = (u.new_empty(u.shape, dtype=x if padded_N == BN else torch.float32) for x in types[:2])
    dA, dskip, dh0 = buffer(batch, parts, D, padded_N), buffer(batch, parts, D), buffer(batch, D, padded_N)
    dbias = buffer(batch, parts, D if softplus else 0)
    ends = buffer(batch, parts, D, padded_N) if parts > 1 else dh_end  # a single part ends where the sequence does
    # shares in 16 bits, where the gradients are: half the bytes, and an error as small as that of rounding the sum
    dB, dC = (u.new_empty(batch, blocks, T, padded_N, dtype=x) for x in types[3:5])
    scratch = buffer(programs, CHUNK // BACKWARD["GROUP"], BACKWARD["BD"], BN)
    sizes = {"D": D, "N": padded_N, "S": s, "BN": BN, "num_warps": 1}
    for n0 in range(0, padded_N, BN):
        if parts > 1:
            adjoint_kernel[(cdiv(D, ADJOINT["BD"]), batch)](
                dt, A, C, dy, dh_end, ends, T, part, n0, HAS_DH=dh_end is not None, **sizes, **ADJOINT,
                WHOLE=_whole(u, N, padded_N, ADJOINT),
            )  # fmt: skip
        backward_kernel[(programs,)](
            u, dt, A, B, C, skip, starts, dy, ends, du, ddt, dA, dB, dC, dskip, dbias, dh0, scratch, T,
            part, n0, items, CHUNK=CHUNK, MANY=part > CHUNK, HAS_ENDS=ends is not None, ACCUMULATE=n0 > 0,
            SOFTPLUS=softplus, **sizes, **BACKWARD, WHOLE=_whole(u, N, padded_N, BACKWARD),
        )  # fmt: skip
    shares = dA.sum((0, 1)), dB.sum(1), dC.sum(1)
    dA, dB, dC = (x[..., :N].to(dtype).contiguous() for x, dtype in zip(shares, types[2:5], strict=True))
    dskip = dskip.sum((0, 1)).to(types[5])
    return du.to(types[0]), ddt.to(types[1]), dA, dB, dC, dskip, dh0[..., :N].contiguous(), dbias.sum((0, 1))


@selective_scan_backward.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    starts: Tensor,
    dy: Tensor,
    dh_end: Tensor | None,
    s: int,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dh0 = u.new_empty(u.shape[0], *A.shape, dtype=torch.float32)
    du, ddt, dA, dB, dC, dskip = (x.new_empty(x.shape) for x in (u, dt, A, B, C, skip))
    return du, ddt, dA, dB, dC, dskip, dh0, dh0.new_empty(u.shape[2] if softplus else 0)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    u, dt, A, B, C, skip, h0, _, dt_bias, s, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(u, dt, A, B, C, skip, output[2])
    ctx.s, ctx.has_h0, ctx.softplus = s, h0 is not None, dt_bias is not None


def _backward(ctx: Any, dy: Tensor | None, dh_end: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    u, dt, A, B, C, skip, starts = ctx.saved_tensors
    dy = torch.zeros_like(u) if dy is None else dy
    du, ddt, dA, dB, dC, dskip, dh0, dbias = selective_scan_backward(
        u, dt, A, B, C, skip, starts, dy, dh_end, ctx.s, ctx.softplus
    )
    ddt, dsource, dbias = (None, ddt, dbias) if ctx.softplus else (ddt, None, None)
    return du, ddt, dA, dB, dC, dskip, dh0 if ctx.has_h0 else None, dsource, dbias, None, None


selective_scan_op.register_autograd(_backward, setup_context=_keep)


def _tiles(N: int) -> tuple[int, int]:
    """Return the number of states in a launch, and N rounded up to whole launches."""
    BN = min(STATES, next_power_of_2(N))
    return BN, cdiv(N, BN) * BN


def _pad(x: Tensor, N: int) -> Tensor:
    """Return x (..., n) in float32, contiguous and padded with zeros to (..., N)."""
    x = x.float()
    return (x if x.shape[-1] == N else F.pad(x, (0, N - x.shape[-1]))).contiguous()  # F.pad by nothing copies


def _whole(u: Tensor, N: int, padded_N: int, options: dict[str, int]) -> bool:
    """Return whether all tiles are full, so that the kernels need no masks."""
    _, T, D = u.shape
    return padded_N == N and D % options["BD"] == 0 and T % max(CHUNK, options["GROUP"]) == 0


@cache
def _chunks_of_part(chunks: int, sequences: int, at_once: int) -> int:
    """Return how many chunks the backward kernel takes one after another, of sequences of so many chunks.

    With one part for each sequence the adjoint kernel has nothing to do. With more parts there are more programs.

    Args:
        chunks: chunks of a sequence.
        sequences: number of sequences, times that of blocks of channels: programs treat each block by itself.
        at_once: programs that a GPU runs at once.
    """

    def cost(size: int) -> float:
        parts = cdiv(chunks, size)
        return cdiv(sequences * parts, at_once) * size + ADJOINT_COST * sequences / at_once * (chunks - size)

    return min(range(chunks, 0, -1), key=cost)


def _programs_at_once(device: torch.device) -> int:
    """Return how many programs of the backward kernel a GPU runs at once.

    They have one warp. A processor has 4 parts of 16,384 registers.
    """
    return 4 * (16384 // (32 * BACKWARD["maxnreg"])) * _processors(device)


def _processors(device: torch.device) -> int:
    """Return the number of streaming multiprocessors of a GPU; an H100's where the kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
