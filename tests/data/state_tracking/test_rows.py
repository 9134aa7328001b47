from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError, StateTrackingText
from data.curriculum import Stage
from data.state_tracking.documents import FAMILIES, make_document, training_document
from data.state_tracking.rows import DOCUMENTS_A_ROW, encode_question
from data.text.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


NAMES = ("every_token", "answers")


def make(**options):
    return StateTrackingText(**{"batch_size": 4, "context": 96, "num_workers": 0, **options})


def test_a_row_has_the_documents_in_order_each_after_eos():
    data = make(context=300)
    batch = data.training_batch(range(5, 7), torch.device("cpu"))
    assert batch.inputs.shape == batch.labels.shape == (2, 300)
    assert torch.equal(batch.inputs[:, 1:], batch.labels[:, :-1])
    eos, *documents = (
        data.pieces.eos,
        *[training_document(0, 5 * DOCUMENTS_A_ROW + i, tuple(FAMILIES), (1, 16)).text for i in range(8)],
    )
    ids = batch.inputs[0].tolist()
    starts = [i for i, token in enumerate(ids) if token == eos]
    assert starts[0] == 0 and len(starts) > 1
    for start, end, document in zip(starts, [*starts[1:], None], documents, strict=False):
        read = data.pieces.decode(ids[start + 1 : end])
        assert read == document if end else document.startswith(read)


def test_training_begins_with_the_lengths_of_the_curriculum():
    data = make(families=["counters"], context=60, curriculum=[Stage((1, 1), 3), Stage((9, 9), 2)])
    texts = [data.pieces.decode(row[1:]) for row in data.training_batch(range(8), "cpu").inputs.tolist()]
    for i, (text, lengths) in enumerate(zip(texts, [*[(1, 1)] * 3, *[(9, 9)] * 2, *[(1, 16)] * 3], strict=True)):
        first = training_document(0, i * DOCUMENTS_A_ROW, ("counters",), lengths)
        assert first.text.startswith(text) or text.startswith(first.text)
    assert data.training_batch(range(5, 8), "cpu").inputs.equal(
        make(families=["counters"], context=60).training_batch(range(5, 8), "cpu").inputs
    )


def test_labels_of_answers_are_what_a_story_tells():
    """Read from the start of its document up to a label, a row ends with that answer."""
    rows = {name: make(training_labels=name, context=1500).training_batch(range(1), "cpu") for name in NAMES}
    ids, labels = rows["answers"].inputs[0].tolist(), rows["answers"].labels[0]
    assert rows["every_token"].inputs[0].tolist() == ids and not make(training_labels="answers").equal_labels
    scored = labels != -100
    assert torch.equal(labels[scored], rows["every_token"].labels[0][scored])
    data, found = make(), []
    starts = [i for i, token in enumerate(ids) if token == data.pieces.eos]
    for end in (scored & ~torch.cat([scored[1:], scored[-1:]])).nonzero()[:, 0].tolist():  # of each answer
        start = max(start for start in starts if start <= end)
        found.append((starts.index(start), data.pieces.decode([*ids[start + 1 : end + 1], int(labels[end])])))
    documents = [training_document(0, i, tuple(FAMILIES), (1, 16)) for i in range(len(starts))]
    wanted = [(i, document.text[:end]) for i, document in enumerate(documents) for _, end in document.answers]
    assert len(found) > 6 and found == wanted[: len(found)]
    short = make(training_labels="answers", context=5).training_batch(range(20), "cpu").labels
    assert ((short != -100).sum(1) > 0).all()


def test_rows_do_not_depend_on_batches_workers_or_ranks(as_rank):
    whole = torch.cat([batch.inputs for batch in islice(make().train_dataloader(), 4)])
    by_two = [islice(as_rank(make(batch_size=2), rank=rank, ranks=2).train_dataloader(), 4) for rank in (0, 1)]
    got = torch.cat([batch.inputs for pair in zip(*by_two, strict=True) for batch in pair])
    assert torch.equal(got, whole) and len(whole.unique(dim=0)) == 16
    assert not torch.equal(next(iter(make(seed=1).train_dataloader())).inputs, whole[:4])


def test_another_context_or_seed_is_refused_at_resume():
    saved = make().state_dict()
    for options, problem in (
        ({"context": 100}, r"data\.context: the checkpoint was trained with 96, got 100"),
        ({"seed": 3}, r"data\.seed: the checkpoint was trained with 0, got 3"),
    ):
        with pytest.raises(ValueError, match=problem):
            make(**options).load_state_dict(saved)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([*FAMILIES]), st.integers(1, 30), st.integers(0, 10**6), st.sampled_from(["own", "mistral"]))
def test_a_question_is_its_text(family, length, number, name):
    tokenizer = load_tokenizer({"own": "data/state_tracking/tokenizer.model", "mistral": "data/mistral_v1"}[name])
    document = make_document(1, "test", family, length, number)
    question = encode_question(tokenizer, document)
    assert question.prefix[0] == tokenizer.eos and len(question.choices) == len(document.choices)
    for choice, text in zip(question.choices, document.choices, strict=True):
        assert choice and tokenizer.decode([*question.prefix[1:], *choice]) == document.prompt + text
    if name == "own":  # one token tells the choices apart, and the text that follows an answer does not change it
        assert {len(choice) for choice in question.choices} == {1}
        (ids,) = tokenizer.encode([document.text])
        right = [*question.prefix[1:], *question.choices[question.answer]]
        assert ids.tolist()[: len(right)] == right


def test_evaluation_sequences_score_the_answer_alone():
    data = make()
    sets = {}
    for validation in (False, True):
        batches = list(data.evaluation_batches(3, 9, 30, validation, tokens=700))
        assert sum(len(batch.inputs) for batch in batches) == 30 and len(batches) > 2
        assert all(batch.inputs.numel() <= 700 for batch in batches)
        sets[validation] = {row[row != 0].tolist().__str__() for batch in batches for row in batch.inputs}
        for batch in batches:
            assert ((batch.labels != -100).sum(1) == 1).all()
            for read, labels in zip(batch.inputs, batch.labels, strict=True):
                at = int((labels != -100).nonzero())
                text = data.pieces.decode([*read[1 : at + 1].tolist(), int(labels[at])])
                assert (read[at + 1 :] == 0).all()
                assert text.split()[-1].strip(".") and text.startswith(data.pieces.decode(read[1:at].tolist())[:10])
    assert not sets[False] & sets[True]
    again = [batch.inputs for batch in make(seed=9).evaluation_batches(3, 9, 30, tokens=700)]
    assert all(map(torch.equal, again, [batch.inputs for batch in data.evaluation_batches(3, 9, 30, tokens=700)]))


def test_validation_is_shared_by_the_ranks(as_rank):
    whole = [batch for batch in make(validation_samples=13).val_dataloader()]
    ranks = [[*as_rank(make(validation_samples=13), rank=rank, ranks=2).val_dataloader()] for rank in (0, 1)]
    labels = sum(int((batch.labels != -100).sum()) for batch in whole)
    assert labels == 13 == sum(int((batch.labels != -100).sum()) for rank in ranks for batch in rank)
    assert len(ranks[0]) == len(ranks[1])


def test_bad_input_is_named():
    for options, problem in (
        ({"families": ["parity"]}, r"families: must be different ones of variables, .*, got \['parity'\]"),
        ({"families": []}, r"families: must be different ones of .*, got \[\]"),
        ({"train_lengths": (0, 4)}, r"train_lengths: must be \[shortest, longest\] with 1 <= .*, got \[0, 4\]"),
        ({"context": 0}, "context: must be at least 1, got 0"),
        ({"evaluation_seed": -1}, "evaluation_seed: must lie in"),
        ({"curriculum": [Stage((0, 2), 5)]}, r"curriculum: must be \[shortest, longest\] with 1 <= .*, got \[0, 2\]"),
        ({"curriculum": [Stage((1, 2), 0)]}, "curriculum: a stage must have at least 1 sample, got 0"),
    ):
        with pytest.raises(ValueError, match=problem):
            make(**options)
    with pytest.raises(DataError, match=r"tokenizer: nowhere\.model is not a file"):
        make(tokenizer="nowhere.model")
    with pytest.raises(ValueError, match="lengths: StateTrackingText needs at least 1, got 0"):
        next(make().evaluation_batches(0, 4, 1))
