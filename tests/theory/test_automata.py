import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import EvenPairs, ModularArithmetic, Parity
from data.tasks.cycle_navigation import CycleNavigation
from data.tasks.permutation_groups import named_group
from lrnn.runtime.errors import ConfigError
from lrnn.theory import cascade as cascades
from lrnn.theory.automaton import (
    Automaton,
    counter,
    cycle_navigation,
    even_pairs,
    flip_flop,
    from_regex,
    modular_arithmetic,
)
from lrnn.theory.cascade import Decomposition, cascade
from lrnn.theory.check import Claim, check
from lrnn.theory.decompose import automaton, group
from lrnn.theory.groups import checked_table, permutations_of

TASKS = {
    "parity": (Parity, counter(2), lambda tokens: tokens - 1, 1),
    "even pairs": (EvenPairs, even_pairs(), lambda tokens: tokens - 1, 1),
    "cycle navigation": (CycleNavigation, cycle_navigation(), lambda tokens: tokens - 1, 4),
    "modular arithmetic": (ModularArithmetic, modular_arithmetic(), lambda tokens: tokens - 1, 5),
}


@pytest.mark.parametrize("name", TASKS)
def test_automata_of_tasks_give_their_labels(name):
    task, follows, letters, first_label = TASKS[name]
    data = task(test_samples=8)
    for batch in data.evaluation_batches(21, 21, 8):
        scored = batch.labels != -100
        last = int(scored.int().argmax(1)[0])
        said = follows.say(follows.states_of(letters(batch.inputs[:, : last + 1]).numpy()))
        assert (said[:, -1] + first_label == batch.labels[scored].numpy()).all()


@st.composite
def tables(draw):
    states, letters = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    row = st.lists(st.integers(0, states - 1), min_size=letters, max_size=letters)
    return Automaton(draw(st.lists(row, min_size=states, max_size=states)), draw(st.integers(0, states - 1)))


@settings(deadline=None, max_examples=25)
@given(tables(), st.integers(0, 99))
def test_a_cascade_says_what_any_automaton_says(follows, seed):
    rnn = cascade(follows)
    words = np.random.default_rng(seed).integers(0, len(follows.table[0]), (3, 60))
    said, _ = rnn.read(torch.from_numpy(words), rnn.start(3))
    assert (said.numpy() == follows.states_of(words)).all()
    for layer in rnn.layers:  # every transition is of norm 1 at most, and each input term is a unit vector or 0
        assert torch.linalg.matrix_norm(layer.A, 2).max() <= 1
        assert {*layer.b.sum(1).tolist()} <= {0.0, 1.0} and {*layer.A.unique().tolist()} <= {0.0, 1.0}


def test_layers_permute_reset_or_delay():
    parts = Decomposition(flip_flop())
    (layer,) = cascade(flip_flop()).layers
    assert parts.levels == 1
    assert torch.equal(layer.A[2], torch.eye(2)) and not layer.A[:2].any()
    assert Decomposition(modular_arithmetic()).levels == 2  # p is reset or multiplied, then s is turned
    assert len(cascade(modular_arithmetic()).layers) == 3
    assert len(cascade(Automaton(named_group("S3").table.T.tolist())).layers) == 1  # a group permutes its elements


@pytest.mark.parametrize("follows", [flip_flop(), counter(3), even_pairs(), modular_arithmetic()])
def test_cascades_read_in_pieces(follows):
    result = check(Claim(cascade(follows), follows), words=2, length=100, segment=7)
    assert result.errors == 0 and result.exact == 100


def test_regular_expressions():
    pytest.importorskip("greenery")
    follows = from_regex("(ab|b*a)*")
    assert follows.letters == "ab" and len(follows.table) == 3  # the other characters' dead state is left out
    for word, accepted in (("", 1), ("ab", 1), ("bba", 1), ("bb", 0), ("abbb", 0)):
        numbers = follows.numbers_of(word)[None]
        states = np.append(follows.start, follows.states_of(numbers))
        assert follows.say(states)[-1] == accepted
    with pytest.raises(ConfigError, match=r"^regex: greenery can't read '\('$"):
        from_regex("(")


@pytest.mark.parametrize(
    "table, message",
    [
        ([[0, 1], [1]], r"table: row 1 must have an entry for each of the 2 letters, got \[1\]"),
        ([[0, 1], [1, 2]], "table: entries must be states from 0 to 1, row 1 has 2"),
        ([], r"table: must have a row for each state and an entry for each letter, got \[\]"),
    ],
)
def test_tables_that_are_not_whole(table, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Automaton(table)


def test_words_and_sizes_that_do_not_fit(monkeypatch):
    with pytest.raises(ConfigError, match=r"^word: letters must be among 0, 1, got 'x'$"):
        automaton(table=[[0, 1], [1, 0]], word="01x")
    with pytest.raises(ConfigError, match=r"^regex: give either an expression or a table$"):
        automaton()
    monkeypatch.setattr(cascades, "MOST_SETS", 5)
    with pytest.raises(ConfigError, match=r"^table: the automaton of 25 states has more than 5 image sets, the most"):
        cascade(modular_arithmetic())
    monkeypatch.setattr(cascades, "MOST_SETS", 512)
    monkeypatch.setattr(cascades, "MOST_INPUTS", 20)
    with pytest.raises(ConfigError, match=r"^table: a layer of the cascade would have 9 inputs and a state of 5"):
        cascade(modular_arithmetic())


@pytest.mark.parametrize(
    "table, message",
    [
        ([[0, 1, 2], [1, 0, 2]], "table: entries must be states from 0 to 1, row 0 has 2"),
        ([[0], [1]], "table: a group's table must have as many entries in a row as rows"),
        ([[0]], "table: the group must have 2 to 360 elements, got 1"),
        ([[1, 1], [0, 0]], "table: not a group, no element e has e "),
        ([[0, 1], [1, 1]], "table: not a group, row 1 has an element twice"),
        (
            [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]],
            r"table: not a group, \(1 \* 1\) \* 2 is not 1 \* \(1 \* 2\)",
        ),
    ],
)
def test_groups_that_are_none(table, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        checked_table(table)


@pytest.mark.parametrize("name, points", [("S4", 4), ("A5", 5), ("Z6", 6), ("Q8", 8), ("D4", 4), ("Z2xS3", 6)])
def test_groups_become_permutations(name, points):
    table = checked_table(named_group(name).table.tolist())
    found = permutations_of(table)
    assert len({*found}) == len(table) and len(found[0]) == points
    for a, b in np.random.default_rng(0).integers(0, len(table), (50, 2)):
        assert found[table[a, b]] == tuple(found[a][i] for i in found[b])


def test_commands_print_what_they_made(capsys):
    automaton(table=[[0, 1], [1, 0]], word="0110", length=50)
    group(named_group("Z3").table.tolist(), length=50)
    printed = capsys.readouterr().out
    assert "0110: 0 1 0 0\n16 random words of 50 letters: 0 errors\n" in printed
    assert "3 elements, as permutations of 3 points\n16 random words of 50 letters: 0 errors\n" in printed
