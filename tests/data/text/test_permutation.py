from collections import Counter
from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.text.permutation import Permutation


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**20), st.integers(0, 1000))
def test_it_is_a_bijection(size, seed, number):
    permutation = Permutation(size, seed, number)
    assert sorted(map(permutation, range(size))) == list(range(size))


def test_large_sizes_stay_in_range():
    permutation = Permutation(50_000_000_001, 1, 2)
    images = {permutation(position) for position in range(1000)}
    assert len(images) == 1000 and min(images) >= 0 and max(images) < 50_000_000_001


def test_all_orders_are_about_equally_likely():
    counts = Counter(tuple(map(Permutation(4, seed, 0), range(4))) for seed in range(24_000))
    assert set(counts) == set(permutations(range(4)))
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 23 + 5 * 46**0.5  # chi squared


def test_epochs_and_seeds_are_uncorrelated():
    n = 10_000
    orders = [list(map(Permutation(n, seed, epoch), range(n))) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    correlation = np.corrcoef([range(n), *orders, *(np.roll(order, 1) for order in orders)])
    assert np.abs(correlation - np.eye(7)).max() < 5 / n**0.5
