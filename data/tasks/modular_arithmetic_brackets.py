"""Modular arithmetic with brackets: nested sums and differences, or products too, mod m.

    length 15    expression   (  (  2  -  4  )  +  (  -  1  )  )  =
                 inputs       8  8  2  6  4  9  5  8  6  1  9  9 10     (digit d is the token d, padding is 11)
                 labels       .  .  .  .  .  .  .  .  .  .  .  .  2     the value, 2 for m = 5, at the =

A sequence of length L has an expression of L - 3 tokens: the =, the label and one padding count too, as in the authors'
code, which also raises lengths below 5 to 5. An expression of n tokens is drawn as theirs is:

    n >= 5   ( left operator right ), where left takes 1 to n - 4 tokens, uniformly, and right what remains
    n < 5    d, - d, ( d ) or ( - d ), the only one of n tokens
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
    """Expressions with every operation in brackets, by default with + and - only, as in the paper's Table 3."""

    min_length = 3
    one_label = True

    def __init__(self, modulus: int = 5, multiplication: bool = False, **kwargs: Any):
        """
        Args:
            modulus: numbers are 0 to modulus - 1, and so is the label.
            multiplication: operators are +, - and *; otherwise + and -.
        """
        if modulus < 2:
            raise ValueError(f"modulus: must be at least 2, got {modulus}")
        super().__init__(**kwargs)
        self.modulus = modulus
        self.multiplication = multiplication
        self.vocab_size = modulus + 7
        self.chance = 1 / modulus

    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        size = length[:, None].clamp(min=5) - 3  # (B, 1), of the expression
        # Every token has random bits of its own and one use for them: a digit, an operator, or where its bracket
        # divides. What a token is depends only on the bits of those before it.
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
    """Divide expressions of the given sizes (B, 1) into their parts, all of one depth at a time.

    No two parts, an expression counting as one, start at the same token. So (B, T) tensors describe them all:

        (  (  2  -  4  )  +  (  -  1  )  )
       12  5  1  .  1  .  .  4  2  1  .  .      part: tokens of the part that starts here, 0 where none does

    Returns `part`, `left` (tokens of the left operand where part >= 5), where the operators are, and the depth
    (on a GPU, a bound on it).
    """
    B, T = bits.shape
    position = torch.arange(T, device=bits.device)
    whole = F.pad(size, (0, T - 1))
    part = whole
    depth = T // 4 + 1  # of the deepest expression
    for level in range(depth):
        # One part of 5 or more becomes two; one of 4 or 3 tokens loses its brackets, one of 2 its sign. The rest has
        # nothing to spare, and adds nothing. (Sums rather than torch.where: three times as fast on a CPU.)
        spare = (part - 4).clamp(min=0)
        left = below(spare, bits)  # one less than the size of the left operand
        right = bits.new_zeros(B, T + 3).scatter_add_(1, position + left + 3, spare - left)[:, :T]
        deeper = whole + right
        deeper[:, 1:] += (left + (part > 1) + (part == 4))[:, :-1]
        # On a CPU, stop when nothing was left to divide: a random tree is far less deep than the deepest. To ask a
        # GPU would be to wait for it; more rounds change nothing.
        if bits.device.type == "cpu" and torch.equal(part, deeper):
            depth = level
            break
        part = deeper
    return part, left + 1, F.pad(right[:, 1:], (0, 1)) > 0, depth


def _evaluate(part: Tensor, left: Tensor, digit: Tensor, operator: Tensor, depth: int, modulus: int) -> Tensor:
    """Values (B, 1), mod modulus, of expressions of the given depth. Each round evaluates all parts from theirs.

    A part made of x and y is worth a x + b y + c x y + d, where d is a digit's own value.
    """
    T = part.shape[1]
    divides, position = part > 4, torch.arange(T, device=part.device)
    middle = (position + left + 1) * divides  # the operator; y starts after it
    operator = operator.gather(1, middle)
    times = divides & (operator == TIMES)
    exact = torch.float32 if modulus <= 2**12 else torch.float64  # faster on a CPU than integers, which modulus**2 fits
    a = torch.where(part == 2, -1, (part > 2) & ~times).to(exact)
    b = torch.where(divides & ~times, 1 - 2 * operator, 0).to(exact)
    c, d = times.to(exact), torch.where(part == 1, digit, 0).to(exact)
    value = F.pad(d, (0, 1))  # (B, T + 1), since x starts one token after its part
    for _ in range(depth):
        x, y = value[:, 1:], value.gather(1, middle + 1)
        value[:, :T] = torch.addcmul(torch.addcmul(d, b, y), torch.addcmul(a, c, y), x) % modulus
    return value[:, :1].long()
