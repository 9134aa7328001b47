"""The diagonal linear RNN against its definition; the contract of all recurrences is in test_recurrences.py."""

import torch

from lrnn.ops import diagonal_scan


def test_specification_against_a_sum_of_products():
    a, b = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    a[:, 3], a[:, 4, 1] = -1, 0
    h = torch.randn(2, 5, dtype=torch.float64)
    states, last = diagonal_scan(a, b, h, form="recurrent")
    want = a.prod(1) * h + sum(a[:, s + 1 :].prod(1) * b[:, s] for s in range(6))
    torch.testing.assert_close(states[:, -1], want)
    torch.testing.assert_close(last, want)
