"""Finite automata as tables: given, read from a regular expression, or those of the tasks in data/.

letter            0  1
from state 0      0  1          parity: letter 1 changes the state, letter 0 keeps it
from state 1      1  0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from lrnn.runtime.errors import ConfigError, check_at_least


@dataclass(frozen=True)
class Automaton:
    """A deterministic finite automaton of Q states, numbered from 0, with A letters.

    Raises:
        ConfigError: if an entry of the table is missing or is no state, or if another part does not fit the table.
    """

    table: Sequence[Sequence[int]]
    """table[q][a] is the state after letter a in state q: Q rows of A entries."""

    start: int = 0
    """State before the first letter."""

    outputs: Sequence[int] | None = None
    """What the automaton says in each state, Q numbers; the number of the state when absent."""

    letters: str | None = None
    """One character for each letter, in the order of the columns; the digits 0, 1, ... when absent."""

    def __post_init__(self) -> None:
        if not self.table or not self.table[0]:
            raise ConfigError(f"table: must have a row for each state and an entry for each letter, got {self.table}")
        states, width = len(self.table), len(self.table[0])
        for q, row in enumerate(self.table):
            if len(row) != width or None in row:
                raise ConfigError(f"table: row {q} must have an entry for each of the {width} letters, got {list(row)}")
            for entry in row:
                if not (isinstance(entry, int | np.integer) and 0 <= entry < states):
                    raise ConfigError(f"table: entries must be states from 0 to {states - 1}, row {q} has {entry!r}")
        if not 0 <= self.start < states:
            raise ConfigError(f"start: must be a state from 0 to {states - 1}, got {self.start}")
        if self.outputs is not None and len(self.outputs) != states:
            raise ConfigError(f"outputs: must have one number for each of the {states} states, got {self.outputs}")
        if self.letters is not None and len({*self.letters}) != width:
            raise ConfigError(f"letters: must be {width} different characters, got {self.letters!r}")

    @property
    def next(self) -> np.ndarray:
        """The table as an array (Q, A), int64."""
        return np.array(self.table, np.int64)

    def states_of(self, words: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Return the state after each letter.

        Args:
            words: numbers of letters (W, T).
            start: states before the first letters (W,); the start state when absent.

        Returns:
            States (W, T), int64.
        """
        table, (W, T) = self.next.flatten(), words.shape
        state = np.full(W, self.start) if start is None else start
        states = np.empty((T, W), np.int64)
        letters = len(self.table[0])
        for t, column in enumerate(np.ascontiguousarray(words.T)):
            state = table.take(state * letters + column)
            states[t] = state
        return states.T

    def say(self, states: np.ndarray) -> np.ndarray:
        """Return the outputs in these states, of any shape."""
        return states if self.outputs is None else np.array(self.outputs)[states]

    def numbers_of(self, word: str) -> np.ndarray:
        """Return the numbers of the letters of a word, (T,).

        Raises:
            ConfigError: if the word has a letter outside the alphabet.
        """
        alphabet = self.letters or "".join(map(str, range(min(10, len(self.table[0])))))
        for letter in word:
            if letter not in alphabet:
                raise ConfigError(f"word: letters must be among {', '.join(alphabet)}, got {letter!r}")
        return np.array([alphabet.index(letter) for letter in word], np.int64)


def from_regex(pattern: str) -> Automaton:
    """Make the smallest automaton that accepts what a regular expression matches; its outputs are 1 and 0.

    Its letters are the characters of the expression. It needs the package greenery (pip install -e '.[theory]').

    Raises:
        ConfigError: if greenery is absent, the expression is none, or it names no characters.
    """
    try:
        from greenery import parse
    except ImportError as error:
        raise ConfigError("regex: needs the package greenery; .venv/bin/pip install -e '.[theory]'") from error
    try:
        machine = parse(pattern).to_fsm().reduce()
    except Exception as error:  # greenery has no class of its own for them
        raise ConfigError(f"regex: greenery can't read {pattern!r}") from error
    classes = {
        chr(code): charclass
        for charclass in machine.alphabet
        if not charclass.negated
        for first, last in charclass.ord_ranges
        for code in range(first, last + 1)
    }
    if not classes:
        raise ConfigError(f"regex: must name the characters of its alphabet, got {pattern!r}")
    letters = "".join(sorted(classes))
    table = {machine.initial: [machine.map[machine.initial][classes[a]] for a in letters]}
    while missing := {q for row in table.values() for q in row} - table.keys():
        table |= {q: [machine.map[q][classes[a]] for a in letters] for q in missing}
    number = {q: i for i, q in enumerate(table)}
    rows = [[number[q] for q in row] for row in table.values()]
    return Automaton(rows, number[machine.initial], [int(q in machine.finals) for q in table], letters)


def counter(modulus: int) -> Automaton:
    """Make the automaton of addition modulo m: letter a adds a."""
    check_at_least(1, modulus=modulus)
    return Automaton([[(q + a) % modulus for a in range(modulus)] for q in range(modulus)])


def flip_flop() -> Automaton:
    """Make the memory of one bit: letters 0 and 1 write it, letter 2 keeps it."""
    return Automaton([[0, 1, 0], [0, 1, 1]])


def even_pairs() -> Automaton:
    """Make data.EvenPairs: the states are "no letter yet" and (first letter, last letter); it says whether they differ.

    Letter b is bit b.
    """
    states = [None, *product(range(2), repeat=2)]
    table = [[states.index((b if q is None else q[0], b)) for b in range(2)] for q in states]
    return Automaton(table, outputs=[0 if q is None else q[0] ^ q[1] for q in states])


def cycle_navigation(modulus: int = 6) -> Automaton:
    """Make data.CycleNavigation: the letters 0, 1, 2 are the steps 0, +1, -1 on a cycle."""
    return Automaton([[(q + step) % modulus for step in (0, 1, -1)] for q in range(modulus)])


def modular_arithmetic(modulus: int = 5) -> Automaton:
    """Make data.ModularArithmetic: the letters +, -, *, = and the digits 0, ..., m - 1.

    A state is (s, p): s is the sum of the finished terms, and p the product of the factors of the last term with its
    sign. The value so far is s + p. Before the first number s = 0 and p = 1.
    """
    states = list(product(range(modulus), repeat=2))

    def after(s: int, p: int, letter: int) -> tuple[int, int]:
        match letter:
            case 0 | 1:
                return (s + p) % modulus, (1 if letter == 0 else -1) % modulus
            case 2 | 3:
                return s, p
        return s, p * (letter - 4) % modulus

    table = [[states.index(after(s, p, a)) for a in range(4 + modulus)] for s, p in states]
    return Automaton(table, states.index((0, 1)), [(s + p) % modulus for s, p in states])


def random_automaton(states: int, letters: int, seed: int) -> Automaton:
    """Make an automaton whose table is drawn uniformly."""
    table = np.random.default_rng(seed).integers(0, states, (states, letters))
    return Automaton(table.tolist())
