"""Modular arithmetic without brackets: the value, mod m, of a sum of products.

    length 9     expression   4  -  2  *  3  +  1  =
                 inputs       9  2  7  3  8  1  6  4        (digit d is the token d + 5; padding is 0)
                 labels       .  .  .  .  .  .  .  9        the value (4 for m = 5) as a digit, at the =

A sequence of length L has an expression of L - 2 tokens, because the paper counts the = and the label too. Numbers and
operators alternate, so that every sequence has an odd length. An even length is shortened by one, as in the authors'
code: lengths 40 to 256 become 39, 41, ..., 255.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.resumable import IGNORE, Batch
from data.tasks.counter_random import below, random_bits
from data.tasks.synthetic import SyntheticTask

PAD, PLUS, MINUS, TIMES, EQUALS, FIRST_DIGIT = range(6)


class ModularArithmetic(SyntheticTask):
    """Uniform numbers with uniform operators +, - and * between them. * binds tighter than + and -."""

    min_length = 3
    one_label = True

    def __init__(self, modulus: int = 5, **kwargs: Any):
        """
        Args:
            modulus: The modulus m. Numbers and the value lie in [0, m).
            **kwargs: Options of every task (data.SyntheticTask).
        """
        if modulus < 2:
            raise ValueError(f"data.modulus: must be at least 2, got {modulus}")
        super().__init__(**kwargs)
        self.modulus = modulus
        self.vocab_size = FIRST_DIGIT + modulus
        self.chance = 1 / modulus

    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        N = (longest - 3) // 2  # number of operators in the longest expression
        last = (length[:, None] - 3) // 2  # (B, 1): number of operators, which is also the index of the last number
        bits = random_bits(seed, index, 2 * N + 1)
        number = below(self.modulus, bits[:, ::2])  # (B, N + 1)
        operator = PLUS + below(3, bits[:, 1::2])  # (B, N): operator n stands after number n
        before, after = F.pad(operator, (1, 0), value=PLUS), F.pad(operator, (0, 1), value=PLUS)
        position = torch.arange(N + 1, device=index.device)

        after_or_end = torch.where(position < last, after, torch.where(position == last, EQUALS, PAD))
        inputs = torch.stack([torch.where(position <= last, FIRST_DIGIT + number, PAD), after_or_end], 2).flatten(1)

        signed = torch.where(before == MINUS, -number, number)  # the first factor of a term carries its sign
        product = _products(signed, before == TIMES, self.modulus)
        term_ends = (position == last) | ((position < last) & (after != TIMES))
        value = torch.where(term_ends, product, 0).sum(1, keepdim=True) % self.modulus  # (B, 1)
        place = torch.arange(2 * N + 2, device=index.device)
        labels = torch.where(place == 2 * last + 1, FIRST_DIGIT + value, IGNORE)
        return Batch(inputs, labels)


def _products(factor: Tensor, joined: Tensor, modulus: int) -> Tensor:
    """Product, mod modulus, of each factor with all earlier factors of its term: (B, T).

    `joined` (B, T) says whether a factor belongs to the same term as the factor before it. Each round of the loop
    doubles the number of factors in a product.
    """
    shift = 1
    while shift < factor.shape[1]:
        earlier = F.pad(factor[:, :-shift], (shift, 0))
        factor = torch.where(joined, factor * earlier % modulus, factor)
        joined = joined & F.pad(joined[:, :-shift], (shift, 0))
        shift *= 2
    return factor
