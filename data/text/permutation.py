"""A shuffle that is computed, not stored.

A Feistel network (Luby & Rackoff 1988) with any round function permutes the integers of 2 * h bits. If a result is not
below `size`, the network is applied again until it is (cycle walking, Black & Rogaway 2002): that permutes range(size).
The code is plain Python, because a position takes microseconds, less than the launch of a tensor operation.
"""

ROUNDS = 6
_BITS = (1 << 64) - 1


class Permutation:
    """A bijection of range(size), a pure function of (seed, number). FineWeb takes the epoch as the number."""

    def __init__(self, size: int, seed: int, number: int):
        self.size = size
        self.half = max(1, ((size - 1).bit_length() + 1) // 2)  # 2^(2 half) < 4 size, so that few repeats are needed
        key = _mix(_mix(seed) + number)
        self.keys = [_mix(key + i) for i in range(1, ROUNDS + 1)]

    def __call__(self, position: int) -> int:
        while (position := self._feistel(position)) >= self.size:
            pass
        return position

    def _feistel(self, x: int) -> int:
        half = self.half
        mask = (1 << half) - 1
        left, right = x >> half, x & mask
        for key in self.keys:
            left, right = right, left ^ _mix(right + key) & mask
        return left << half | right


def _mix(x: int) -> int:
    """Hash 64 bits: one step of the counter of splitmix64 (Steele et al. 2014), then its finaliser."""
    x = x + 0x9E3779B97F4A7C15 & _BITS
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _BITS
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _BITS
    return x ^ x >> 31
