"""Answers against Python itself and against readers of the English that share no code with the families."""

import contextlib
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.state_tracking.documents import FAMILIES, SPLITS, make_document, training_document
from data.state_tracking.language import SUBJECTS

DOCUMENTS = st.tuples(
    st.integers(0, 2**20),
    st.sampled_from(sorted(SPLITS)),
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.3, 1.0]),
)


def documents(family):
    def wrap(check):
        @settings(max_examples=30, deadline=None)
        @given(DOCUMENTS)
        def test(arguments):
            seed, split, length, number, revealed = arguments
            document = make_document(seed, split, family, length, number, revealed)
            assert document == make_document(seed, split, family, length, number, revealed)
            assert len({*document.choices}) == len(document.choices) and not document.prompt.endswith(" ")
            check(document)

        return test

    return wrap


def runs(code):
    try:
        exec(code, {})
    except AssertionError:
        return False
    return True


def check_asserts(document):
    """The right answer makes every assertion hold, and no other answer does."""
    right = [runs(document.prompt + choice) for choice in document.choices]
    assert right.index(True) == document.answer and right.count(True) == 1
    statements = [line for line in document.prompt.splitlines() if not line.startswith("assert")]
    beginning = {"variables": 4, "counters": 1, "recall": 1}[document.family]
    assert len(statements) == beginning + document.length


test_variables = documents("variables")(check_asserts)
test_counters = documents("counters")(check_asserts)
test_recall = documents("recall")(check_asserts)


@documents("repl")
def test_repl(document):
    """Every line after a print is what Python prints."""
    names, operations = {}, 0
    lines = (document.prompt + document.choices[document.answer]).splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith(">>> "):
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(line.removeprefix(">>> "), names)
        if line.startswith(">>> print"):
            assert printed.getvalue() == following + "\n"
        else:
            operations += 1
    assert operations == 5 + document.length
    assert [*document.choices] == sorted(document.choices)


@documents("negations")
def test_negations(document):
    """The door is as it was said to be if the number of denials so far is even."""
    *story, end = re.split(r"\. ", document.prompt + document.choices[document.answer])
    subject = re.search(r"talk about the (\w+)", story[0])[1]
    state = SUBJECTS[subject].index(re.fullmatch(r"It is (\w+)", story[1])[1])
    denials, speakers = 0, [None]
    for sentence in [*story[2:], end]:
        if claim := re.fullmatch(r"(\w+) says that (it|\w+) is (so|not so|right|wrong)", sentence):
            speaker, about, verdict = claim.groups()
            assert about == (speakers[-1] or "it") and speaker != speakers[-1]
            denials += verdict in ("not so", "wrong")
            speakers.append(speaker)
        else:
            name, told, answer = re.fullmatch(r"So for (\w+) the (\w+) is (\w+)", sentence).groups()
            assert name == speakers[-1] and told == subject
            assert answer == SUBJECTS[subject][(state + denials) % 2]
    assert len(speakers) == 1 + document.length


@documents("boards")
def test_boards(document):
    board = [None] * 5  # by square: the other way round than the family keeps it
    first, *story = re.split(r"\. ", document.prompt + document.choices[document.answer])
    for piece, square in re.findall(r"[Tt]he (\w+)(?: is)? on (?:square )?(\d)", first):
        board[int(square) - 1] = piece
    operations = 0
    for sentence in story:
        if swapped := re.fullmatch(r"The (\w+) and the (\w+) change places", sentence):
            a, b = map(board.index, swapped.groups())
            board[a], board[b] = board[b], board[a]
        elif moved := re.fullmatch(r"The (\w+) goes to the free square", sentence):
            a, b = board.index(moved[1]), board.index(None)
            board[a], board[b] = None, moved[1]
        else:
            piece, square = re.fullmatch(r"Now the (\w+) is on square (\d)", sentence).groups()
            assert board[int(square) - 1] == piece
            continue
        operations += 1
    assert operations == document.length and board.count(None) == 1


def beginning(text):
    """The first state that a story tells."""
    lines = text.split("\n")
    if text.startswith("box") or "%" in lines[0]:
        return lines[0]
    if text.startswith(">>>"):
        return "\n".join(lines[:5])
    if "=" in lines[0]:
        return "\n".join(lines[:4])
    return ". ".join(text.split(". ")[: 2 if "talk about" in text else 1])


def test_no_story_of_the_training_split_begins_as_one_of_another_split():
    begun = {
        split: {
            beginning(make_document(seed, split, family, 1, number).text)
            for seed in (0, 2411)
            for family in FAMILIES
            for number in range(60)
        }
        for split in SPLITS
    }
    for i, one in enumerate(begun):
        for other in [*begun][i + 1 :]:
            assert not begun[one] & begun[other], (one, other)


def test_training_documents_have_all_families_lengths_and_shares_of_revealed_steps():
    made = [training_document(3, number, tuple(FAMILIES), (1, 16)) for number in range(600)]
    assert {document.family for document in made} == {*FAMILIES}
    assert {document.length for document in made} == {*range(1, 17)}
    told = [document.text.count("assert") - 1 for document in made if document.family == "counters"]
    assert min(told) == 0 and max(told) > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answers_are_balanced_and_chance_is_that_of_a_guess(family):
    made = [make_document(0, "test", family, 6, number) for number in range(250)]
    assert abs(sum(1 / len(document.choices) for document in made) / 250 - FAMILIES[family].chance) < 0.03
    places = [document.answer for document in made]
    assert max(places.count(place) for place in {*places}) / 250 < FAMILIES[family].chance + 0.2
