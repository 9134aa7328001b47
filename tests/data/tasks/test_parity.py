import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Parity
from data.tasks.counter_random import random_integers


def test_labels_against_counting_ones():
    task = Parity(batch_size=64, supervision="every_prefix")
    lengths = task._lengths(7, torch.arange(2000), (3, 40))
    for training in (True, False):
        batch = task.sample(7, torch.arange(2000), lengths, longest=40, training=training)
        assert batch.inputs.shape == batch.labels.shape == (2000, 39)
        for inputs, labels, length in zip(batch.inputs.tolist(), batch.labels.tolist(), lengths.tolist(), strict=True):
            bits = [token - 1 for token in inputs[: length - 1]]
            assert set(bits) <= {0, 1} and set(inputs[length - 1 :]) <= {0}
            prefixes = [sum(bits[: t + 1]) % 2 + 1 for t in range(length - 1)]
            want = prefixes if training else [-100] * (length - 2) + prefixes[-1:]
            assert labels == want + [-100] * (40 - length)


def test_the_paper_scores_one_position_in_training():
    batch = next(iter(Parity(batch_size=32).train_dataloader()))
    assert ((batch.labels != -100).sum(1) == 1).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**20), st.integers(1, 50))
def test_a_sample_does_not_depend_on_the_batch_it_is_in(seed, first, size):
    index = torch.arange(first, first + size)
    together = random_integers(seed, index, 20, 0, 9)
    alone = torch.cat([random_integers(seed, i[None], 20, 0, 9) for i in index])
    assert torch.equal(together, alone)


def test_random_integers_are_uniform_and_uncorrelated():
    n = 200_000
    bits = random_integers(3, torch.arange(n), 8, 0, 1).double()
    sigma = 0.5 / n**0.5
    assert (bits.mean(0) - 0.5).abs().max() < 5 * sigma
    signs = torch.cat([bits, bits.roll(1, 0), random_integers(4, torch.arange(n), 8, 0, 1)], 1) * 2 - 1
    correlation = signs.T @ signs / n - torch.eye(24)
    assert correlation.abs().max() < 6 / n**0.5
    lengths = random_integers(3, torch.arange(n), 1, 3, 40)
    counts = lengths.flatten().bincount(minlength=41)[3:].double()
    assert counts.shape == (38,)
    assert ((counts - n / 38) ** 2 / (n / 38)).sum() < 37 + 5 * (2 * 37) ** 0.5  # chi squared


def test_workers_give_the_same_batches():
    plain, workers = (Parity(batch_size=8, seed=5, num_workers=n).train_dataloader() for n in (0, 2))
    for _, a, b in zip(range(7), plain, workers, strict=False):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels)


def test_ranks_share_one_order(as_rank):
    """2 ranks of 4 see together what 1 rank of 8 sees."""

    def batches(ranks, rank, size):
        task = as_rank(Parity(batch_size=size), rank, ranks)
        return [batch.inputs for _, batch in zip(range(5), task.train_dataloader(), strict=False)]

    def bits(batch):
        return [[token for token in row if token] for row in batch.tolist()]

    for whole, first, second in zip(batches(1, 0, 8), batches(2, 0, 4), batches(2, 1, 4), strict=True):
        assert bits(whole) == bits(first) + bits(second)


def test_evaluation_sets_are_fixed_and_apart_from_training():
    def rows(task, *lengths, **kwargs):
        return [batch.inputs for batch in task.evaluation_batches(*lengths, **kwargs)]

    one, other = Parity(seed=1), Parity(seed=2, batch_size=7)
    for a, b in zip(rows(one, 40, 256, samples=64), rows(other, 40, 256, samples=64), strict=True):
        assert torch.equal(a, b)
    again = rows(Parity(evaluation_seed=1), 40, 256, samples=64)
    assert not torch.equal(again[0], rows(one, 40, 256, samples=64)[0])
    # of length 40, no test sequence is in the first 10,000 training samples (39 bits: chance of a hit 2e-6)
    trained = one.sample(2 * one.seed, torch.arange(10_000), torch.full((10_000,), 40), 40, training=True).inputs
    tested = {tuple(row) for row in rows(one, 40, 40, samples=100)[0].tolist()}
    assert len(tested) == 100 and not tested & {tuple(row) for row in trained.tolist()}


def test_evaluation_batches_hold_all_samples_within_the_token_budget():
    batches = list(Parity().evaluation_batches(40, 256, samples=1000, tokens=8192))
    assert sum(len(batch.inputs) for batch in batches) == 1000
    assert all(batch.inputs.numel() <= 8192 for batch in batches)
    assert [len(batch.inputs) for batch in Parity().evaluation_batches(4096, 4096, samples=3, tokens=100)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"train_lengths": (1, 40)}, "train_lengths"),
        ({"train_lengths": (0, 0)}, "train_lengths"),
        ({"test_lengths": (50, 40)}, "test_lengths"),
        ({"batch_size": 0}, "batch_size"),
        ({"evaluation_seed": -1}, "evaluation_seed"),
        ({"seed": 2**20}, "seed"),
    ],
)
def test_bad_options_are_named(options, key):
    with pytest.raises(ValueError, match=key):
        Parity(**options)
