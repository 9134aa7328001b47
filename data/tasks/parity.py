"""Parity: is the number of ones even or odd?

    length 6     inputs   0  1  1  0  1        (bit b is the token b + 1; padding is 0)
                 labels   .  .  .  .  1        the parity of all bits, as a token, at the last bit
    every_prefix labels   0  1  0  0  1        the parity of each prefix

A sequence of length L has L - 1 bits, because the paper counts the label as a token. Nothing in the input says which
bit is the last, so the model must know the parity at all times (paper, Section 5.1).
"""

from typing import Any, Literal

import torch
from torch import Tensor

from data.resumable import IGNORE, Batch
from data.tasks.counter_random import random_integers
from data.tasks.synthetic import SyntheticTask


class Parity(SyntheticTask):
    """Uniform bits and their parity, by default in the paper's protocol: trained on lengths 3-40, tested on 40-256."""

    vocab_size = 3
    chance = 0.5
    min_length = 2
    last_label_determines_state = True

    def __init__(self, supervision: Literal["last", "every_prefix"] = "last", **kwargs: Any):
        """
        Args:
            supervision: Positions that are scored in training: the last one (the paper's protocol) or every one.
                Validation and test always score the last one.
            **kwargs: Options of every task (data.SyntheticTask).
        """
        super().__init__(**kwargs)
        self.supervision = supervision
        self.one_label = supervision == "last"

    def labels_of(self, samples: range) -> int:
        if self.one_label:
            return len(samples)
        parts = self.curriculum.parts(samples)
        lengths = [self._lengths(self.seed, torch.arange(part.start, part.stop), of) for part, of in parts]
        return int((torch.cat(lengths) - 1).sum())

    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        bits = random_integers(seed, index, longest - 1, 0, 1)  # (B, T)
        position = torch.arange(bits.shape[1], device=index.device)
        last = length[:, None] - 2
        inputs = torch.where(position <= last, bits + 1, 0)
        every = training and self.supervision == "every_prefix"
        scored = position <= last if every else position == last
        labels = torch.where(scored, bits.cumsum(1) % 2 + 1, IGNORE)
        return Batch(inputs, labels)
