"""Modular arithmetic with brackets: the value, mod m, of nested sums and differences (and products, on request).

    length 15    expression   (  (  2  -  4  )  +  (  -  1  )  )  =
                 inputs       8  8  2  6  4  9  5  8  6  1  9  9 10     (digit d is the token d; padding is 11)
                 labels       .  .  .  .  .  .  .  .  .  .  .  .  2     the value (2 for m = 5), at the =

A sequence of length L has an expression of L - 3 tokens, because the authors' code counts the =, the label and one
padding token too. It also raises lengths below 5 to 5. An expression of n tokens is drawn as in the authors' code:

    n >= 5   ( left operator right ), where left has 1 to n - 4 tokens, uniformly, and right has the remaining ones
    n < 5    d, - d, ( d ) or ( - d ), whichever has n tokens
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.resumable import IGNORE, Batch
from data.tasks.counter_random import below, random_bits
from data.tasks.synthetic import SyntheticTask

PLUS, MINUS, TIMES, OPEN, CLOSE, EQUALS, PAD = range(7)  # these tokens follow the digits


class ModularArithmeticBrackets(SyntheticTask):
    """Expressions with brackets around every operation, by default with + and - only, as in the paper's Table 3."""

    min_length = 3
    one_label = True

    def __init__(self, modulus: int = 5, multiplication: bool = False, **kwargs: Any):
        """
        Args:
            modulus: The modulus m. Numbers and the value lie in [0, m).
            multiplication: Whether * is among the operators, beside + and -.
            **kwargs: Options of every task (data.SyntheticTask).
        """
        if modulus < 2:
            raise ValueError(f"data.modulus: must be at least 2, got {modulus}")
        super().__init__(**kwargs)
        self.modulus = modulus
        self.multiplication = multiplication
        self.vocab_size = modulus + 7
        self.chance = 1 / modulus

    def depth(self, inputs: Tensor) -> Tensor:
        """Return the number of brackets that are open at once, at most, in each of the expressions `inputs` (B, T).

        A machine that evaluates an expression from left to right must remember that many unfinished ones.
        """
        opened = (inputs == self.modulus + OPEN).int() - (inputs == self.modulus + CLOSE).int()
        return opened.cumsum(1).amax(1)

    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        size = length[:, None].clamp(min=5) - 3  # (B, 1), tokens of the expression
        # Every token has random bits of its own and uses them once: for a digit, for an operator, or for the place
        # where its bracket divides. Which of the three it is depends only on the bits of earlier tokens.
        bits = random_bits(seed, index, max(longest, 5) - 3)  # (B, T)
        digit, operator = below(self.modulus, bits), below(3 if self.multiplication else 2, bits)
        part, left, is_operator, depth = _divide(bits, size)
        value = _evaluate(part, left, digit, operator, depth, self.modulus)

        tokens = torch.where(part >= 3, OPEN, torch.where(part == 2, MINUS, CLOSE))
        tokens = self.modulus + torch.where(is_operator, operator, tokens)
        tokens = F.pad(torch.where(part == 1, digit, tokens), (0, 1))
        position = torch.arange(tokens.shape[1], device=index.device)
        end = self.modulus + torch.where(position == size, EQUALS, PAD)
        inputs = torch.where(position < size, tokens, end)
        labels = torch.where(position == size, value, IGNORE)
        return Batch(inputs, labels)


def _divide(bits: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Divide expressions of the given sizes (B, 1) into their parts, one depth after the other.

    The whole expression counts as a part. No two parts start at the same token, so that (B, T) tensors describe all:

        (  (  2  -  4  )  +  (  -  1  )  )
       12  5  1  .  1  .  .  4  2  1  .  .      part: size of the part that starts here, or 0

    Returns:
        `part` (B, T): the number of tokens of the part that starts at each token, or 0.
        `left` (B, T): the number of tokens of the left operand, where part >= 5.
        `is_operator` (B, T): whether the token is a binary operator.
        `depth`: the depth of the deepest expression; on a GPU, an upper bound of it.
    """
    B, T = bits.shape
    position = torch.arange(T, device=bits.device)
    whole = F.pad(size, (0, T - 1))
    part = whole
    depth = T // 4 + 1  # upper bound: a part loses at least 4 tokens a level
    for level in range(depth):
        # A part of 5 or more tokens becomes two; one of 3 or 4 tokens loses its brackets, and one of 2 its sign. For
        # all other tokens the sums add 0. (On a CPU, sums are three times as fast as torch.where.)
        spare = (part - 4).clamp(min=0)
        left = below(spare, bits)  # the size of the left operand, minus one
        right = bits.new_zeros(B, T + 3).scatter_add_(1, position + left + 3, spare - left)[:, :T]
        deeper = whole + right
        deeper[:, 1:] += (left + (part > 1) + (part == 4))[:, :-1]
        # On a CPU, stop when no part was divided: a random tree is much less deep than the bound. On a GPU this test
        # would make the CPU wait, and further rounds change nothing.
        if bits.device.type == "cpu" and torch.equal(part, deeper):
            depth = level
            break
        part = deeper
    return part, left + 1, F.pad(right[:, 1:], (0, 1)) > 0, depth


def _evaluate(part: Tensor, left: Tensor, digit: Tensor, operator: Tensor, depth: int, modulus: int) -> Tensor:
    """Values (B, 1), mod modulus, of expressions of the given depth.

    The value of a part with operands x and y is a x + b y + c x y + d, where d is the value of a digit. Each round
    computes the values of all parts from those of their operands.
    """
    T = part.shape[1]
    divides, position = part > 4, torch.arange(T, device=part.device)
    middle = (position + left + 1) * divides  # position of the operator; y starts after it
    operator = operator.gather(1, middle)
    times = divides & (operator == TIMES)
    # Floats that hold modulus**2 exactly
    exact = torch.float32 if modulus <= 2**12 else torch.float64  # faster than integers on a CPU
    a = torch.where(part == 2, -1, (part > 2) & ~times).to(exact)
    b = torch.where(divides & ~times, 1 - 2 * operator, 0).to(exact)
    c, d = times.to(exact), torch.where(part == 1, digit, 0).to(exact)
    value = F.pad(d, (0, 1))  # (B, T + 1), because x starts one token after its part
    for _ in range(depth):
        x, y = value[:, 1:], value.gather(1, middle + 1)
        value[:, :T] = torch.addcmul(torch.addcmul(d, b, y), torch.addcmul(a, c, y), x) % modulus
    return value[:, :1].long()
