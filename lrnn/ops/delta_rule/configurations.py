"""What depends on the card in the kernels of the delta rule: which of them run, and how they are launched.

The numbers of Hopper (compute capability 9.0) are the fastest of those tried on an H100. The numbers of other cards
come from the compiler (`make kernels`): with them a kernel fits into 99 KB of shared memory, and a thread spills at
most 400 bytes of registers to memory. On these cards a thread would get 32 registers for products of 64 columns, and
spill 12 KB.
"""

import sys

import torch

from lrnn.ops.common.cards import Card

LARGEST_HEAD_OF_FLA = 256  # K and V that flash-linear-attention's kernels take, in 16 bits
# Found on an H100: the most tokens for which the short kernels are faster, with heads of 32 and with larger ones. The
# row "delta rule, 1024 x 40, 4 heads of 32" of results/bench is below, those of 2,048 tokens are above.
SHORT_ON_H100 = {"heads of 32": 256, "larger heads": 64}

Configuration = dict[str, int]

SOLVE: Configuration = {"BLOCK": 16, "num_warps": 1}
HOPPER: dict[str, Configuration] = {
    "forward": {"BV": 64, "num_warps": 4, "num_stages": 3},
    "adjoint": {"BV": 64, "num_warps": 4, "num_stages": 3},
    "backward": {"BK": 64, "num_warps": 4, "num_stages": 1},
}
# If the threads of 4 warps have much to hold, ptxas gives each 32 registers, unless it is told to use all 255. More
# warps do not help: a chunk has 64 rows, 16 for each of 4 warps, so 8 warps compute each row twice.
# Tests run these configurations on an H100 too. There the adjoint kernel gave wrong gradients or failed with an illegal
# address if it had at most 32 columns and `num_stages` was 1 (Triton 3.6). It is right with 2 stages and with 3.
OTHERS: dict[str, Configuration] = {
    "forward": {"BV": 32, "num_warps": 4, "num_stages": 2, "maxnreg": 255},
    "adjoint": {"BV": 32, "num_warps": 4, "num_stages": 2, "maxnreg": 255},
    "backward": {"BK": 32, "num_warps": 4, "num_stages": 1, "maxnreg": 255},
}
OTHERS_ABOVE_64: dict[str, Configuration] = {
    **OTHERS,
    "adjoint": {"BV": 16, "num_warps": 4, "num_stages": 2, "maxnreg": 255},
    "backward": {"BK": 16, "num_warps": 4, "num_stages": 1, "maxnreg": 255},
}


def long_kernels(card: Card, size: int) -> dict[str, Configuration]:
    """Return the configurations of the long kernels, for heads of `size`.

    BV columns of the state, or BK of the keys, are for each program.
    """
    if card.hopper:
        return HOPPER
    return OTHERS if size <= 64 else OTHERS_ABOVE_64


def short_warps(card: Card, size: int, gated: bool = False) -> int:
    """Return the warps of a program of the short kernels, which holds a state of `size` numbers."""
    if size <= 1024:
        return 2 if gated and size > 256 and not card.races else 1
    return 4 if size <= 4096 and not gated else 8


def largest_head(card: Card, dtype: torch.dtype, gated: bool = False) -> int:
    """Return the largest K and V that our kernels take; flash-linear-attention's or PyTorch run for larger ones.

    On an A100, the short kernels spill 60 KB of registers with float32 heads of 64. With heads of 128 they compile for
    18 minutes, and do not fit into the shared memory of smaller cards. On cards where products of several warps race,
    the short kernels run with one warp, which holds a head of 32. With a gate and a head of 64, a thread would spill
    3 KB of registers on an A100, and 0.3 KB on an H100.
    """
    if card.races:
        return 32
    if gated:
        return 64 if card.hopper else 32
    return 32 if dtype == torch.float32 and not card.hopper else 128


def most_tokens_of_short(card: Card, size: int, gated: bool = False) -> int:
    """Return for how many tokens the short kernels run, in 16 bits; the long ones take any number.

    With a gate, flash-linear-attention's kernels are the other choice, if they run on the card. For small heads, each
    process would tune them for longer than a small model is evaluated.
    """
    if gated and (size <= 32 or card.miscompiles_gates):
        return sys.maxsize
    if size <= 32:
        return SHORT_ON_H100["heads of 32"]
    return SHORT_ON_H100["larger heads"] if card.hopper else 0
