"""Counter-based random numbers: draw j of sample i is a hash of (seed, i, j).

A sample is the same in whatever order, by whatever worker or rank, and on whatever device it is drawn.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


def random_integers(seed: int, index: Tensor, draws: int, low: int, high: int) -> Tensor:
    """Uniform integers in [low, high], int64 (B, draws), for the samples with numbers `index` (B,).

    Raises ValueError if high < low, or if the range has more than 2^31 values.
    """
    if not 0 < high - low + 1 <= 2**31:
        raise ValueError(f"random_integers: needs low <= high, got {low} and {high}")
    return low + below(high - low + 1, random_bits(seed, index, draws))


def random_bits(seed: int, index: Tensor, draws: int) -> Tensor:
    """Integers of 31 random bits, int64 (B, draws), for the samples with numbers `index` (B,)."""
    mixed_seed = int(_mix(torch.tensor(seed)))  # on the CPU, which would otherwise wait for a GPU
    key = _mix(index + mixed_seed)  # (B,)
    counter = torch.arange(1, draws + 1, device=index.device) * _signed(_GOLDEN)
    return _shift_right(_mix(key[:, None] + counter), 33)


def below(limit: int | Tensor, bits: Tensor) -> Tensor:
    """Map 31 random bits to integers in [0, limit), with limit at most 2^31: uniform bits give uniform integers."""
    return (bits * limit) >> 31


def _mix(x: Tensor) -> Tensor:
    """Hash int64 by the finaliser of splitmix64 (Steele et al. 2014). Products wrap around, as they must."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift right logically: PyTorch shifts int64 arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    """The int64 with the bits of an unsigned 64-bit constant."""
    return constant - (1 << 64) if constant >= 1 << 63 else constant
