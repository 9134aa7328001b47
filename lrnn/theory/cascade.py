"""Any finite automaton as a cascade of permutations and resets, and the cascade as a linear RNN (Theorem 4).

The decomposition is the holonomy decomposition of Krohn and Rhodes' theorem (Eilenberg 1976; Zeiger 1967). Its sets are
the images Q w of all states Q under words w, and the single states. A set P is below R if P lies in some R w, and two
sets are equivalent if each is below the other. The height of a single state is 0, and that of another set is one more
than the greatest height strictly below it. The tiles of a set are the largest sets properly inside it.

The cascade keeps a chain Q = P_H > ... > P_0 = {q}, where P_{l-1} is a tile of P_l if P_l has height l, and otherwise
P_l itself. A letter a replaces the chain P by a chain R with P_l a inside R_l for all l, so that R_0 is the next state:

    P_l a = R_l          then both have height l and are equivalent, and a maps the tiles of one to those of the other:
                         a permutation of tiles
    P_l a < R_l          R_{l-1} is the first tile of R_l that holds P_l a: a reset, whatever P_{l-1} was

Tiles are counted in one representative of each class of equivalent sets, so that the layer of height l has one block of
coordinates for each class, and a permutation or a reset in each block: A is a permutation matrix, or zero with b a unit
vector. Between two such layers, a delay keeps the previous P_l for one token: A = [[0, 0], [I, 0]], whose norm is 1, is
n projections followed by n swaps. So H heights take 2 H - 1 layers, H at most the number of classes, below 2^Q.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from lrnn.runtime.errors import ConfigError
from lrnn.theory.automaton import Automaton
from lrnn.theory.linear_rnn import Layer, LinearRNN

MOST_SETS = 512  # image sets; an automaton that has more is refused
MOST_INPUTS = 200_000  # inputs of one layer, each with a matrix

Set = frozenset[int]


@dataclass(frozen=True)
class Decomposition:
    """The holonomy decomposition of an automaton.

    Raises:
        ConfigError: if the automaton has more than MOST_SETS image sets.
    """

    automaton: Automaton

    @cached_property
    def sets(self) -> list[Set]:
        """All image sets and single states, the largest first."""
        found = [frozenset(range(len(self.automaton.table)))]
        seen = {*found}
        for P in found:  # which grows meanwhile
            for a in range(len(self.automaton.table[0])):
                if (R := self.image(P, a)) not in seen:
                    if len(found) == MOST_SETS:
                        raise ConfigError(
                            f"table: the automaton of {len(self.automaton.table)} states has more than {MOST_SETS} "
                            "image sets, the most that are decomposed"
                        )
                    found.append(R)
                    seen.add(R)
        found += [P for q in range(len(self.automaton.table)) if (P := frozenset([q])) not in seen]
        return sorted(found, key=lambda P: (-len(P), sorted(P)))

    def image(self, P: Set, letter: int) -> Set:
        return frozenset(int(self.automaton.table[q][letter]) for q in P)

    @cached_property
    def _reached(self) -> np.ndarray:
        """reached[P, R]: whether some word maps set P onto set R, (sets, sets)."""
        number = {P: i for i, P in enumerate(self.sets)}
        reached = np.eye(len(self.sets), dtype=bool)
        for i, P in enumerate(self.sets):
            for a in range(len(self.automaton.table[0])):
                reached[i, number[self.image(P, a)]] = True
        while (more := reached @ reached).sum() > reached.sum():
            reached = more
        return reached

    @cached_property
    def _above(self) -> np.ndarray:
        """above[R, P]: whether P lies in some image of R, (sets, sets)."""
        inside = np.array([[P <= R for P in self.sets] for R in self.sets])
        return self._reached @ inside

    @cached_property
    def class_of(self) -> dict[Set, int]:
        """Class of each set of more than one state, from 0."""
        equivalent = self._above & self._above.T
        first = {P: int(equivalent[i].argmax()) for i, P in enumerate(self.sets) if len(P) > 1}
        number = {i: c for c, i in enumerate(dict.fromkeys(first.values()))}
        return {P: number[i] for P, i in first.items()}

    @cached_property
    def height(self) -> dict[Set, int]:
        """Height of each set; 0 for a single state."""
        strictly = self._above & ~self._above.T
        height = np.zeros(len(self.sets), int)
        multiple = np.array([len(P) > 1 for P in self.sets])
        for _ in self.sets:  # the longest path, at most as long as there are sets
            best = np.where(strictly & multiple, height, 0).max(1)
            height = np.where(multiple, 1 + best, 0)
        return dict(zip(self.sets, map(int, height), strict=True))

    def tiles(self, R: Set) -> list[Set]:
        """Return the largest sets properly inside R."""
        inside = [P for P in self.sets if P < R]
        return [P for P in inside if not any(other > P for other in inside)]

    @cached_property
    def from_representative(self) -> dict[Set, dict[int, int]]:
        """For each set of more than one state, a bijection onto it from the first set of its class.

        Each is the effect of a word, and so is its inverse; so it maps tiles to tiles.
        """
        maps: dict[Set, dict[int, int]] = {}
        for P in self.sets:
            if len(P) > 1 and self.class_of[P] not in {self.class_of[R] for R in maps}:
                maps[P] = {q: q for q in P}
                queue = [P]
                for R in queue:  # which grows meanwhile
                    for a in range(len(self.automaton.table[0])):
                        S = self.image(R, a)
                        if S not in maps and self.class_of.get(S) == self.class_of[P]:
                            maps[S] = {q: int(self.automaton.table[r][a]) for q, r in maps[R].items()}
                            queue.append(S)
        return maps

    @cached_property
    def representative(self) -> dict[int, Set]:
        """The set of each class that the maps start from."""
        first: dict[int, Set] = {}
        for P in self.from_representative:
            first.setdefault(self.class_of[P], P)
        return first

    def chosen(self, R: Set, tile: int) -> Set:
        """Return a tile of R by its number in the representative."""
        to_R = self.from_representative[R]
        return frozenset(to_R[q] for q in self.tiles_of_class[self.class_of[R]][tile])

    def number_of(self, R: Set, tile: Set) -> int:
        """Return the number, in the representative, of a tile of R."""
        back = {r: q for q, r in self.from_representative[R].items()}
        return self.tiles_of_class[self.class_of[R]].index(frozenset(back[r] for r in tile))

    @cached_property
    def tiles_of_class(self) -> dict[int, list[Set]]:
        return {c: self.tiles(P) for c, P in self.representative.items()}

    def chain(self, q: int) -> list[Set]:
        """Return a chain P_H, ..., P_0 that ends in state q."""
        P, chain = self.sets[0], []
        for level in range(self.levels, 0, -1):
            chain.append(P)
            if self.height[P] == level:
                P = next(tile for tile in self.tiles(P) if q in tile)
        return [*chain, P]

    @property
    def levels(self) -> int:
        """The height H of the set of all states."""
        return self.height[self.sets[0]]


def cascade(automaton: Automaton) -> LinearRNN:
    """Make a linear RNN that says what an automaton says, from permutation-reset layers and delays.

    Raises:
        ConfigError: if the automaton is too large to decompose (MOST_SETS, MOST_INPUTS).
    """
    parts = Decomposition(automaton)
    start = parts.chain(automaton.start)
    top = parts.sets[0]
    symbols = [(a, top, top) for a in range(len(automaton.table[0]))]  # (letter, P_l before it, R_l after it)
    layers = []
    for level in range(parts.levels, 0, -1):
        layer, outputs = _permute_or_reset(parts, level, symbols, start[parts.levels - level + 1])
        layers.append(layer)
        if level > 1:
            layer, symbols = _delay(parts, level - 1, outputs, start[parts.levels - level + 1])
            layers.append(layer)
    if not layers:  # one state: any layer does
        return LinearRNN((_constant(len(symbols), automaton),))
    said = automaton.say(np.arange(len(automaton.table)))
    last = layers[-1]
    states = torch.tensor([int(said[next(iter(P))]) for _, P in outputs])
    layers[-1] = Layer(last.A, last.b, last.initial, last.directions, _looked_up(states, last.outputs))
    return LinearRNN(tuple(layers))


Before = tuple[int, Set, Set]  # a letter, P_l before it and R_l after it
After = tuple[int, Set]  # a letter, and R_{l-1} after it


def _permute_or_reset(
    parts: Decomposition, level: int, symbols: list[Before], initial: Set
) -> tuple[Layer, list[After]]:
    """Make the layer of one height; return it and what its outputs mean."""
    classes = sorted({c for P, c in parts.class_of.items() if parts.height[P] == level})
    offsets, n = {}, 0
    for c in classes:
        offsets[c], n = n, n + len(parts.tiles_of_class[c])
    _check_size(len(symbols), n)
    A, b = torch.eye(n).repeat(len(symbols), 1, 1), torch.zeros(len(symbols), n)
    outputs = torch.full((len(symbols), n), -1)
    meanings: dict[After, int] = {}
    for i, (a, P, R) in enumerate(symbols):
        if parts.height[R] < level:
            outputs[i] = meanings.setdefault((a, R), len(meanings))
            continue
        first = offsets[parts.class_of[R]]
        size = len(parts.tiles_of_class[parts.class_of[R]])
        block = slice(first, first + size)
        A[i, block, block] = 0
        image = parts.image(P, a)
        if image == R:
            for tile in range(size):
                A[i, first + parts.number_of(R, parts.image(parts.chosen(P, tile), a)), first + tile] = 1
        else:
            b[i, first + parts.number_of(R, next(tile for tile in parts.tiles(R) if image <= tile))] = 1
        for tile in range(size):
            outputs[i, first + tile] = meanings.setdefault((a, parts.chosen(R, tile)), len(meanings))
    h = torch.zeros(n)
    for c in classes:  # where the chain does not pass, any tile will do
        h[offsets[c]] = 1
    _set_initial(parts, level, initial, h, offsets)
    return Layer(A, b, h, torch.eye(n), outputs), list(meanings)


def _set_initial(parts: Decomposition, level: int, below: Set, h: torch.Tensor, offsets: dict[int, int]) -> None:
    """Write the coordinate of the start state's chain, whose set under this level is `below`."""
    P = parts.chain(parts.automaton.start)[parts.levels - level]
    if parts.height[P] == level:
        c = parts.class_of[P]
        h[offsets[c] : offsets[c] + len(parts.tiles_of_class[c])] = 0
        h[offsets[c] + parts.number_of(P, below)] = 1


def _delay(parts: Decomposition, level: int, symbols: list[After], initial: Set) -> tuple[Layer, list[Before]]:
    """Make the layer that remembers P_l for one token; return it and what its outputs mean."""
    sets = list(dict.fromkeys([initial, *(P for _, P in symbols)]))
    n = len(sets)
    _check_size(len(symbols) * n, 2 * n)
    A = torch.zeros(2 * n, 2 * n)
    A[n:, :n] = torch.eye(n)
    b, outputs = torch.zeros(len(symbols), 2 * n), torch.full((len(symbols), n), -1)
    meanings: dict[Before, int] = {}
    for i, (a, R) in enumerate(symbols):
        b[i, sets.index(R)] = 1
        for j, P in enumerate(sets):
            if parts.image(P, a) <= R:  # the others never come before this letter and R
                outputs[i, j] = meanings.setdefault((a, P, R), len(meanings))
    h = torch.zeros(2 * n)
    h[sets.index(initial)] = 1
    directions = torch.cat([torch.zeros(n, n), torch.eye(n)], 1)
    return Layer(A.expand(len(symbols), -1, -1), b, h, directions, outputs), list(meanings)


def _constant(inputs: int, automaton: Automaton) -> Layer:
    outputs = torch.full((inputs, 1), int(automaton.say(np.array([0]))[0]))
    return Layer(torch.ones(inputs, 1, 1), torch.zeros(inputs, 1), torch.ones(1), torch.ones(1, 1), outputs)


def _looked_up(values: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return torch.where(numbers < 0, -1, values[numbers.clamp_min(0)])


def _check_size(inputs: int, n: int) -> None:
    if inputs * n > MOST_INPUTS:
        raise ConfigError(
            f"table: a layer of the cascade would have {inputs:,} inputs and a state of {n}; their product must be at "
            f"most {MOST_INPUTS:,}"
        )
