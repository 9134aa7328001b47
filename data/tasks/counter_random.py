"""Counter-based random numbers: draw j of sample i is a hash of (seed, i, j).

Samples can be drawn in any order, by any worker or rank, on the CPU or a GPU, and come out the same.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


def random_integers(seed: int, index: Tensor, draws: int, low: int, high: int) -> Tensor:
    """Integers in [low, high], (len(index), draws): `draws` for each sample named in index (B,)."""
    if not 0 < high - low + 1 <= 2**31:
        raise ValueError(f"random_integers: needs low <= high, got {low} and {high}")
    return low + below(high - low + 1, random_bits(seed, index, draws))


def random_bits(seed: int, index: Tensor, draws: int) -> Tensor:
    """31 random bits a draw, (len(index), draws)."""
    mixed_seed = int(_mix(torch.tensor(seed)))  # on the CPU: a copy to a GPU would make the CPU wait for it
    key = _mix(index + mixed_seed)  # (B,)
    counter = torch.arange(1, draws + 1, device=index.device) * _signed(_GOLDEN)
    return _shift_right(_mix(key[:, None] + counter), 33)


def below(limit: int | Tensor, bits: Tensor) -> Tensor:
    """Integers in [0, limit), uniform if the 31 bits are; limit at most 2**31."""
    return (bits * limit) >> 31


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014); int64 products wrap."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 has only an arithmetic one."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
