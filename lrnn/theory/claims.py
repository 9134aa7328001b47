"""The constructions that `python -m lrnn.theory theorems` runs, each with the automaton that it should follow."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from data.tasks.permutation_groups import Group, named_group
from lrnn.models import LanguageModel
from lrnn.theory.automaton import (
    Automaton,
    counter,
    cycle_navigation,
    even_pairs,
    flip_flop,
    modular_arithmetic,
    random_automaton,
)
from lrnn.theory.cascade import cascade
from lrnn.theory.check import Claim, Machine, ModelMachine
from lrnn.theory.construct import (
    counter_delta_net,
    group_delta_net,
    group_delta_product,
    parity_delta_net,
    parity_diagonal,
    parity_mamba,
    rotation_delta_product,
)
from lrnn.theory.linear_rnn import LinearRNN, parity_rnn, permutation_rnn, reflection_rnn, rotation_rnn
from lrnn.theory.reflections import swaps_of

MODULI = (2, 3, 5, 7, 60)
GROUPS = ("S3", "S4", "S5")


@dataclass(frozen=True)
class Planned:
    """A claim that is made when it is its turn."""

    theorem: str
    name: str
    made_of: str
    make: Callable[[torch.device], Claim]
    parity: bool = False
    """Whether the words have the length of parity's."""


def counter_with_time(modulus: int) -> Automaton:
    """Make addition modulo m whose states also hold the number of letters mod 2, as the states of Theorem 6 do."""
    m = modulus
    table = [[(q // 2 + a) % m * 2 + 1 - q % 2 for a in range(m)] for q in range(2 * m)]
    return Automaton(table, outputs=[q // 2 for q in range(2 * m)])


def swaps_in(group: Group) -> list[int]:
    """Return the numbers of the identity and of the swaps."""
    return (group.points_moved <= 2).nonzero()[:, 0].tolist()


def models() -> list[Planned]:
    """Return the constructions in the architectures that train."""
    planned = [
        _parity("DeltaNet, beta = 2", parity_delta_net),
        _parity("Mamba, a = -1", parity_mamba),
        _parity("diagonal RNN, a = -1", parity_diagonal),
    ]
    for name in GROUPS:
        planned += [_swaps(name), _all_elements(name)]
    planned.append(_tokens_per_element("S5", 4))
    for m in MODULI:
        planned.append(_counter("3", m, "DeltaProduct, 2 reflections a token", counter(m), rotation_delta_product))
        planned.append(_counter("6", m, "DeltaNet, 2 layers of reflections", counter_with_time(m), counter_delta_net))
    return planned


def explicit(dtype: torch.dtype) -> list[Planned]:
    """Return the same in the explicit linear RNN, whose states are of this dtype."""
    planned = [_rnn("1, 3", "parity", "a = -1", parity_rnn, counter(2), dtype, parity=True)]
    for name in GROUPS:
        group = named_group(name)
        automaton = Automaton(group.table.T.tolist())
        permutations = group.permutations.tolist()
        planned.append(_rnn("3", name, "permutations", partial(permutation_rnn, permutations), automaton, dtype))
    for m in MODULI:
        planned.append(_rnn("3", f"Z{m}", "rotations", partial(rotation_rnn, m), counter(m), dtype))
        reflections = counter_with_time(m)
        planned.append(_rnn("6", f"Z{m}", "2 layers of reflections", partial(reflection_rnn, m), reflections, dtype))
    return planned


def cascades(automata: int) -> list[Planned]:
    """Return cascades of named automata and of random ones with 2 to 6 states and 2 or 3 letters."""
    named = {
        "flip-flop": flip_flop(),
        "(aa)*": Automaton([[1], [0]], outputs=[1, 0], letters="a"),
        "counter mod 3": counter(3),
        "counter mod 6": counter(6),
        "parity": counter(2),
        "even pairs": even_pairs(),
        "cycle navigation": cycle_navigation(),
        "modular arithmetic mod 5": modular_arithmetic(),
        "S3": Automaton(named_group("S3").table.T.tolist()),
    }
    random = {
        f"random {seed}: {2 + seed % 5} states, {2 + seed % 2} letters": random_automaton(
            2 + seed % 5, 2 + seed % 2, seed
        )
        for seed in range(automata)
    }
    return [_cascade(name, automaton) for name, automaton in (named | random).items()]


def _parity(made_of: str, make: Callable[[], LanguageModel]) -> Planned:
    def claim(device: torch.device) -> Claim:
        return Claim(ModelMachine(make().to(device), tokens=[1, 2], answers=[1, 2]), counter(2))

    return Planned("1, 3", "parity", made_of, claim, parity=True)


def _counter(
    theorem: str, modulus: int, made_of: str, automaton: Automaton, make: Callable[[int], LanguageModel]
) -> Planned:
    def claim(device: torch.device) -> Claim:
        elements = range(modulus)
        return Claim(ModelMachine(make(modulus).to(device), elements, elements, bos=modulus + 1), automaton)

    return Planned(theorem, f"Z{modulus}", made_of, claim)


def _swaps(name: str) -> Planned:
    def claim(device: torch.device) -> Claim:
        group = named_group(name)
        letters = swaps_in(group)
        return Claim(_swap_machine(group, device), Automaton(group.table.T[:, letters].tolist()))

    return Planned("3", f"{name}, swaps", "DeltaNet", claim)


def _tokens_per_element(name: str, k: int) -> Planned:
    """All elements, each written as k swaps or identities: k tokens move k + 1 points."""

    def claim(device: torch.device) -> Claim:
        group = named_group(name)
        letters = swaps_in(group)
        number = {tuple(group.permutations[a].tolist()): i for i, a in enumerate(letters)}
        points = range(group.permutations.shape[1])
        blocks = []
        for permutation in group.permutations.tolist():
            swaps = [number[tuple(_moved(points, key))] for _, key in swaps_of(permutation)]
            blocks.append(swaps + [number[tuple(points)]] * (k - len(swaps)))
        automaton = Automaton(group.table.T[:, letters].tolist())
        return Claim(_swap_machine(group, device), automaton, np.array(blocks))

    return Planned("3", f"{name}, {k} tokens an element", "DeltaNet", claim)


def _moved(points: range, key: torch.Tensor) -> list[int]:
    """Return the swap whose reflection has this key, as a list."""
    i, j = key.nonzero()[:, 0].tolist()
    return [{i: j, j: i}.get(p, p) for p in points]


def _swap_machine(group: Group, device: torch.device) -> Machine:
    model = group_delta_net(group.permutations.tolist()).to(device)
    return ModelMachine(model, swaps_in(group), range(group.order), bos=group.order + 1)


def _all_elements(name: str) -> Planned:
    def claim(device: torch.device) -> Claim:
        group = named_group(name)
        model = group_delta_product(group.table.tolist()).to(device)
        elements = range(group.order)
        machine = ModelMachine(model, elements, elements, bos=group.order + 1)
        return Claim(machine, Automaton(group.table.T.tolist()))

    reflections = int(name[1:]) - 1
    return Planned("3", f"{name}, all elements", f"DeltaProduct, {reflections} reflections a token", claim)


def _rnn(
    theorem: str,
    name: str,
    made_of: str,
    make: Callable[[], LinearRNN],
    automaton: Automaton,
    dtype: torch.dtype,
    parity: bool = False,
) -> Planned:
    return Planned(theorem, name, made_of, lambda device: Claim(make().to(device, dtype), automaton), parity)


def _cascade(name: str, automaton: Automaton) -> Planned:
    rnn = cascade(automaton)
    layers = f"{len(rnn.layers)} layer{'s' if len(rnn.layers) > 1 else ''}"
    return Planned("4", name, layers, lambda device: Claim(rnn.to(device), automaton))
