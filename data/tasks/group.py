"""Group word problem: the running product of the elements of a group (paper, Section 5.2).

Here in S3, whose elements are the tokens 0 to 5, by sequences of 4 elements:

    tokens_per_element 1
        inputs         7  2  1  1  5              BOS, then x_1, ..., x_4
        every_token    0  2  4  2  3              y_t = x_t * y_(t-1) at each token; the identity, 0, at BOS
        every_element  .  2  4  2  3
        last           .  .  .  .  3

    tokens_per_element 2
        inputs         7  2  6  1  6  1  6  5  6  each element is followed by the token 6, which changes nothing
        every_token    0  0  2  2  4  4  2  2  3  the answer is due at the last token of an element, and not before
        every_element  .  .  2  .  4  .  2  .  3
        last           .  .  .  .  .  .  .  .  3

The newer element stands on the left and acts after the older ones. So does the state of Theorem 3, which is
H_t = A(x_t) H_(t-1) with permutation matrices A, as A(a) A(b) = A(a * b). data/tasks/permutation_groups.py says how
elements are numbered. In a group of N elements, the token N changes nothing, N + 1 is BOS, and N + 2 is padding.
A length counts elements without BOS: a sequence of length L has 1 + tokens_per_element * L tokens.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.resumable import IGNORE, Batch
from data.tasks.counter_random import random_integers
from data.tasks.permutation_groups import Group, generated_group, named_group, reachable, running_products
from data.tasks.synthetic import SyntheticTask

ALPHABETS = ("all", "swaps", "at_most_3_points", "generators")
Scored = Literal["every_token", "every_element", "last"]


class GroupWordProblem(SyntheticTask):
    """Uniform elements of an alphabet, and their running product.

    `chance` is the accuracy of a uniform guess among the products that a long sequence can have: those of an even
    number of swaps, for example, are even. Short sequences may have fewer.
    """

    min_length = 1
    last_label_determines_state = True
    changeable_options = SyntheticTask.changeable_options | {"evaluation_labels"}

    def __init__(
        self,
        group: str | None = None,
        generators: list[list[int]] | None = None,
        alphabet: list[int] | str = "all",
        tokens_per_element: int = 1,
        training_labels: Scored = "every_token",
        evaluation_labels: Scored = "every_element",
        **kwargs: Any,
    ):
        """
        Args:
            group: Name of the group: S5 (symmetric), A5 (alternating), Z60 (cyclic), D4 (dihedral, of order 8), Q8
                (quaternions), or a product such as Z2xA5. At most 5,040 elements.
            generators: Permutations that generate the group, in place of a name, such as [[1, 0, 2], [0, 2, 1]].
            alphabet: Elements that sequences consist of: `all`, `swaps`, `at_most_3_points`, `generators`, or a list of
                element numbers. `swaps` and `at_most_3_points` are the permutations that move at most 2 and 3 points,
                including the identity. `generators` are the given generators, or those of the named group.
            tokens_per_element: Number of tokens that an element takes: the element and tokens that change nothing.
            training_labels: Tokens that are scored in training: all with BOS (as in the paper), the last token of each
                element, or the last token of the sequence.
            evaluation_labels: Tokens that are scored in validation and test, from the same choices. `every_element`
                leaves out BOS, whose answer is constant.
            **kwargs: Options of every task (data.SyntheticTask).

        Raises:
            ValueError: if an option is out of its range, or if the group is unknown or too large.
        """
        if tokens_per_element < 1:
            raise ValueError(f"data.tokens_per_element: must be at least 1, got {tokens_per_element}")
        super().__init__(**kwargs)
        with torch.device("cpu"):  # whatever the default device is
            self.group = _group(group, generators)
            self.letters = _letters(self.group, alphabet)
            self.chance = 1 / reachable(self.group.table, self.letters)
        self.tokens_per_element = tokens_per_element
        self.training_labels = training_labels
        self.evaluation_labels = evaluation_labels
        self.one_label = training_labels == "last"
        self.pause, self.bos, self.padding = range(self.group.order, self.group.order + 3)
        self.vocab_size = self.group.order + 3
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def sample(self, seed: int, index: Tensor, length: Tensor, longest: int, training: bool) -> Batch:
        table, letters = self._on(index.device)
        elements = letters[random_integers(seed, index, longest, 0, len(letters) - 1)]  # (B, longest)
        products = running_products(table, elements).long()
        k = self.tokens_per_element
        tokens = F.pad(elements[:, :, None], (0, k - 1), value=self.pause).flatten(1)
        tokens = F.pad(tokens, (1, 0), value=self.bos)  # (B, T) with T = 1 + k * longest
        position = torch.arange(1 + k * longest, device=index.device)
        answers = F.pad(products, (1, 0))[:, position // k]  # product of the elements that are complete by then
        last = k * length[:, None]
        scored = self._scored(position, last, self.training_labels if training else self.evaluation_labels)
        inputs = torch.where(position <= last, tokens, self.padding)
        return Batch(inputs, torch.where(scored, answers, IGNORE))

    def _scored(self, position: Tensor, last: Tensor, choice: Scored) -> Tensor:
        """Which positions have a label, (B, T), where `last` (B, 1) is the position of the last token."""
        if choice == "last":
            return position == last
        every = position <= last
        return every if choice == "every_token" else every & (position > 0) & (position % self.tokens_per_element == 0)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The multiplication table and the alphabet on a device, copied there once: a copy makes the CPU wait."""
        if device not in self._copies:
            self._copies[device] = self.group.table.to(device), self.letters.to(device)
        return self._copies[device]

    def evaluation_batches(
        self, shortest: int, longest: int, samples: int, validation: bool = False, tokens: int = 2**17
    ) -> Iterator[Batch]:
        """Yield evaluation sequences as every task does. A batch has at most `tokens` tokens besides BOS."""
        return super().evaluation_batches(shortest, longest, samples, validation, tokens // self.tokens_per_element)


def _group(name: str | None, generators: list[list[int]] | None) -> Group:
    if name is not None and generators is not None:
        raise ValueError(
            "data.generators: must be null where a group is named, got both; set group or generators to null"
        )
    if name is not None:
        return named_group(name)
    if generators is not None:
        return generated_group(generators)
    raise ValueError("data.group: must be a name such as S5, or generators must be given")


def _letters(group: Group, alphabet: list[int] | str) -> Tensor:
    """Numbers of the elements that sequences consist of, (A,), int64."""
    if isinstance(alphabet, list):
        if len({*alphabet}) < len(alphabet) or not all(0 <= element < group.order for element in alphabet):
            raise ValueError(f"data.alphabet: must list different elements in [0, {group.order}), got {alphabet}")
        letters = torch.tensor(alphabet, dtype=torch.int64)
    elif alphabet not in ALPHABETS:
        raise ValueError(
            f"data.alphabet: must be one of {', '.join(ALPHABETS)}, or a list of numbers, got {alphabet!r}"
        )
    elif alphabet == "generators":
        letters = torch.tensor(group.generators)
    else:
        points = {"all": group.permutations.shape[1], "swaps": 2, "at_most_3_points": 3}[alphabet]
        letters = (group.points_moved <= points).nonzero()[:, 0]
    if len(letters) < 2:
        raise ValueError(f"data.alphabet: needs at least 2 elements, {alphabet} has {len(letters)} in this group")
    return letters
