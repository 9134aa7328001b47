"""Run a construction against its automaton over long random words, in segments."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lrnn.models import LanguageModel
from lrnn.theory.automaton import Automaton

MOST_TOKENS = 2**19  # of a call


class Machine(Protocol):
    """What reads letters and says something after each, with a state of real numbers."""

    def start(self, words: int) -> Any:
        """Return the state before the first letters of this many words."""

    def read(self, letters: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read letters (W, T), int64; return what the machine says after each (W, T), and its state."""

    def features(self, state: Any) -> Tensor:
        """Return the numbers of the state that tell the automaton's states apart (W, D)."""


@dataclass
class ModelMachine:
    """A model of lrnn/models as a machine.

    Attributes:
        model: the model, on its device.
        tokens: token of each letter.
        answers: token of each output of the automaton.
        bos: token before the first letter, or None.
    """

    model: LanguageModel
    tokens: Sequence[int]
    answers: Sequence[int]
    bos: int | None = None

    def __post_init__(self) -> None:
        device = self.model.backbone.head.weight.device
        self._tokens = torch.tensor(self.tokens, device=device)
        self._answers = torch.tensor(self.answers, device=device)

    def start(self, words: int) -> Any:
        if self.bos is None:
            return None
        return self.model(self._tokens.new_full((words, 1), self.bos))[1]

    def read(self, letters: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self.model(self._tokens[letters], state)
        said = torch.full((logits.shape[-1],), -1, device=letters.device)
        said[self._answers] = torch.arange(len(self._answers), device=letters.device)
        return said[logits.argmax(-1)], state

    def features(self, state: Any) -> Tensor:
        return state[-1][0][-1].flatten(1).double()  # the last mixer's recurrent state


@dataclass
class Claim:
    """A construction, and the automaton that it should follow.

    Attributes:
        machine: the construction.
        automaton: what it should say.
        blocks: blocks of letters (B, k) that words are made of, drawn uniformly; single letters when absent.
    """

    machine: Machine
    automaton: Automaton
    blocks: np.ndarray | None = None


@dataclass
class Result:
    """What a check found. Distances are relative to the largest number in the states of short words."""

    words: int
    length: int
    """Length of the words in letters."""
    errors: int
    exact: int
    """Length to which no word has an error."""
    seconds: float
    least_distance: dict[int, float] = field(default_factory=dict)
    """Least distance of two words in different states, after each power of ten of letters; after 0, of short words."""
    drift: dict[int, float] = field(default_factory=dict)
    """Largest distance of a state from that of the shortest word to it, after each power of ten of letters."""


@torch.no_grad()
def check(
    claim: Claim,
    words: int,
    length: int,
    device: torch.device | str = "cpu",
    segment: int | None = None,
    seed: int = 0,
    distances: bool = True,
) -> Result:
    """Compare what a construction says with the automaton, letter by letter.

    Args:
        claim: the construction, whose machine is on the device.
        words: number of random words.
        length: letters in a word.
        device: device of the machine.
        segment: letters that are read in one call, with the state carried on; by default, 2,000, or fewer where there
            are many words.
        seed: seed of the words.
        distances: whether to measure the distances of states.
    """
    automaton, machine = claim.automaton, claim.machine
    draw = np.random.default_rng(seed)
    result = Result(words, length, errors=0, exact=length, seconds=0.0)
    reference = _reference(claim, device) if distances else None
    start, state = time.perf_counter(), machine.start(words)
    now = np.full(words, automaton.start)
    for first, last in _segments(length, segment or max(1, min(2000, MOST_TOKENS // words))):
        letters = _draw(draw, claim, words, last - first)
        states = automaton.states_of(letters, now)
        now = states[:, -1]
        said, state = machine.read(torch.from_numpy(letters).to(device), state)
        wrong = said.cpu().numpy() != automaton.say(states)
        if wrong.any():
            result.exact = min(result.exact, first + int(wrong.any(0).argmax()))
            result.errors += int(wrong.sum())
        if reference is not None and _is_power_of_ten(last):
            _measure(result, last, machine.features(state).double(), now, reference)
    if reference is not None:
        scale, places = reference.abs().max(), torch.arange(len(reference), device=reference.device)
        result.least_distance[0] = float(_least_distance(reference, places) / scale)
    result.seconds = time.perf_counter() - start
    return result


def _segments(length: int, segment: int) -> list[tuple[int, int]]:
    """Split a word, so that every power of ten is the end of a piece."""
    ends = [10**p for p in range(1, 12) if 10**p < length]
    pieces, first = [], 0
    for end in [*ends, length]:
        while first < end:
            pieces.append((first, min(first + segment, end)))
            first = pieces[-1][1]
    return pieces


def _is_power_of_ten(n: int) -> bool:
    return n >= 10 and str(n).strip("0") == "1"


def _draw(draw: np.random.Generator, claim: Claim, words: int, letters: int) -> np.ndarray:
    if claim.blocks is None:
        return draw.integers(0, len(claim.automaton.table[0]), (words, letters))
    blocks, size = claim.blocks, claim.blocks.shape[1]
    drawn = blocks[draw.integers(0, len(blocks), (words, -(-letters // size)))]
    return drawn.reshape(words, -1)[:, :letters]


def _reference(claim: Claim, device: torch.device | str) -> Tensor:
    """States of the machine after the shortest word to each state of the automaton (Q, D); NaN if there is none."""
    automaton = claim.automaton
    shortest: dict[int, list[int]] = {automaton.start: []}
    for q in (queue := [automaton.start]):
        for a, r in enumerate(automaton.table[q]):
            if r not in shortest:
                shortest[r] = [*shortest[q], a]
                queue.append(r)
    features: dict[int, Tensor] = {}
    for size in {len(word) for word in shortest.values()}:
        states = [q for q, word in shortest.items() if len(word) == size]
        state = claim.machine.start(len(states))
        if size:
            state = claim.machine.read(torch.tensor([shortest[q] for q in states], device=device), state)[1]
        elif state is None:
            continue  # a model that has read nothing has no state yet: its numbers are zeros
        features |= dict(zip(states, claim.machine.features(state).double(), strict=True))
    shape = torch.zeros_like(next(iter(features.values())))
    table = [features.get(q, shape if q in shortest else shape * torch.nan) for q in range(len(automaton.table))]
    return torch.stack(table)


def _measure(result: Result, length: int, found: Tensor, states: np.ndarray, reference: Tensor) -> None:
    where = torch.from_numpy(states).to(found.device)
    scale = reference[~reference.isnan()].abs().max()
    result.drift[length] = float((found - reference[where]).norm(dim=-1).max() / scale)
    if len(set(states.tolist())) > 1:
        result.least_distance[length] = float(_least_distance(found, where) / scale)


def _least_distance(found: Tensor, states: Tensor) -> Tensor:
    found, states = found[~found.isnan().any(-1)], states[~found.isnan().any(-1)]
    distance = torch.cdist(found, found, compute_mode="donot_use_mm_for_euclid_dist")
    return distance[states[:, None] != states].min()
