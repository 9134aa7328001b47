"""Even pairs: is the number of pairs 01 and 10 even? It is even exactly if the first bit equals the last.

    length 6     inputs   1  2  2  1  2        (bit b is the token b + 1; padding is 0)
                 labels   .  .  .  .  2        1 if the first bit equals the last, otherwise 2, at the last bit

A sequence of length L has L - 1 bits, because the paper counts the label as a token. Nothing in the input says which
bit is the last.
"""

import torch
from torch import Tensor

from data.resumable import IGNORE, Batch
from data.tasks.counter_random import random_integers
from data.tasks.synthetic import SyntheticTask


class EvenPairs(SyntheticTask):
    """Uniform bits, and whether the last equals the first. The task is in the authors' code, not in the paper."""

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
