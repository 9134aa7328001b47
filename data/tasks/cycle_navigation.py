"""Cycle navigation: a walk starts at place 0 of a cycle with m places. Where does it end?

    length 6     steps    +1  0 -1 -1 -1
                 inputs    2  1  3  3  3        (0, +1, -1 are the tokens 1, 2, 3; padding is 0)
                 labels    .  .  .  .  8        the place (4 for m = 6) as the token 4 + place, at the last step

A sequence of length L has L - 1 steps, because the paper counts the label as a token. Nothing in the input says which
step is the last.
"""

from typing import Any

import torch
from torch import Tensor

from data.resumable import IGNORE, Batch
from data.tasks.counter_random import random_integers
from data.tasks.synthetic import SyntheticTask


class CycleNavigation(SyntheticTask):
    """Uniform steps of 0, +1 and -1, and the place they lead to. The task is in the authors' code, not in the paper."""

    min_length = 2
    one_label = True
    last_label_determines_state = True

    def __init__(self, modulus: int = 6, **kwargs: Any):
        """
        Args:
            modulus: Number of places on the cycle.
            **kwargs: Options of every task (data.SyntheticTask).
        """
        if modulus < 2:
            raise ValueError(f"data.modulus: must be at least 2, got {modulus}")
        super().__init__(**kwargs)
        self.modulus = modulus
        self.vocab_size = 4 + modulus
        self.chance = 1 / modulus

    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        draw = random_integers(seed, index, longest - 1, 0, 2)  # (B, T)
        step = torch.where(draw == 2, -1, draw)
        position = torch.arange(draw.shape[1], device=index.device)
        last = length[:, None] - 2
        inputs = torch.where(position <= last, draw + 1, 0)
        labels = torch.where(position == last, 4 + step.cumsum(1) % self.modulus, IGNORE)
        return Batch(inputs, labels)
