"""Even pairs: do the pairs 01 and 10 occur an even number of times? They do if the first and the last bit agree.

    length 6     inputs   1  2  2  1  2        (bit b is the token b + 1, padding is 0)
                 labels   .  .  .  .  2        1 if the first and the last bit agree, otherwise 2

A sequence of length L has L - 1 bits, as in parity. Nothing in the input says which bit is the last.
"""

import torch
from torch import Tensor

from data.resumable import IGNORE, Batch
from data.tasks.counter_random import random_integers
from data.tasks.synthetic import SyntheticTask


class EvenPairs(SyntheticTask):
    """Bits, and whether the last is the first; not in the paper, but in its code."""

    vocab_size = 3
    chance = 0.5
    min_length = 2
    one_label = True

    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        bits = random_integers(seed, index, longest - 1, 0, 1)  # (B, T)
        position = torch.arange(bits.shape[1], device=index.device)
        last = length[:, None] - 2
        inputs = torch.where(position <= last, bits + 1, 0)
        labels = torch.where(position == last, (bits ^ bits[:, :1]) + 1, IGNORE)
        return Batch(inputs, labels)
