"""Make a linear RNN from an automaton or a group that the user names, and run it."""

from typing import Any

import numpy as np
import torch

from lrnn.runtime.errors import ConfigError
from lrnn.theory.automaton import Automaton, from_regex
from lrnn.theory.cascade import Decomposition, cascade
from lrnn.theory.check import Claim, ModelMachine, check
from lrnn.theory.construct import group_delta_product
from lrnn.theory.groups import checked_table, identity_of, permutations_of


def automaton(
    regex: str | None = None,
    table: list[list[int]] | None = None,
    start: int = 0,
    word: str | None = None,
    words: int = 16,
    length: int = 10_000,
) -> None:
    """Make a cascade of permutations and resets from an automaton (Theorem 4), and check it on random words.

    Args:
        regex: Regular expression, such as (aa)*; needs the package greenery.
        table: In place of the expression, a row for each state with the next state for each letter, such as
            [[0,1],[1,0]].
        start: State before the first letter, if a table is given.
        word: Word to read, in the letters of the expression, or in the digits 0, 1, ... for a table.
        words: Number of random words.
        length: Letters in a random word.
    """
    if (regex is None) == (table is None):
        raise ConfigError("regex: give either an expression or a table")
    machine = from_regex(regex) if regex is not None else Automaton(table or [], start)
    numbers = None if word is None else machine.numbers_of(word)
    parts, rnn = Decomposition(machine), cascade(machine)
    print(f"{len(machine.table)} states, {len(machine.table[0])} letters, {len(parts.sets)} image sets")
    print(f"heights: {parts.levels}; layers: {len(rnn.layers)}, with states of {[len(x.initial) for x in rnn.layers]}")
    if numbers is not None and len(numbers):
        said, _ = rnn.read(torch.from_numpy(numbers)[None], rnn.start(1))
        print(f"{word}: {' '.join(map(str, said[0].tolist()))}")
    result = check(Claim(rnn, machine), words, length, distances=False)
    print(f"{words} random words of {length:,} letters: {result.errors} errors")


def group(table: list[list[int]], words: int = 16, length: int = 10_000) -> None:
    """Make one DeltaProduct layer from the multiplication table of a group (Theorem 3), and check it on random words.

    Args:
        table: The table: row a has the numbers of the products a * b for all b.
        words: Number of random words.
        length: Letters in a random word.
    """
    products = checked_table(table)
    points = len(permutations_of(products)[0])
    model: Any = group_delta_product(table)
    elements = range(len(products))
    follows = Automaton(np.ascontiguousarray(products.T).tolist(), start=identity_of(products))
    print(f"{len(products)} elements, as permutations of {points} points")
    machine = ModelMachine(model, elements, elements, bos=len(products) + 1)
    result = check(Claim(machine, follows), words, length, distances=False)
    print(f"{words} random words of {length:,} letters: {result.errors} errors")
