import pytest
import torch

from lrnn.ops import diagonal_scan


def inputs(T, B=2, D=5):
    """a, b and a state; some a exactly 0, 1 or -1."""
    a = torch.tanh(2 * torch.randn(B, T, D, dtype=torch.float64))
    for value, every in ((0, 5), (1, 3), (-1, 4)):
        a[:, ::every] = value
    b, h = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, D, dtype=torch.float64)
    return [x.requires_grad_() for x in (a, b, h)]


@pytest.mark.parametrize("T", [1, 2, 3, 64, 65, 257])
def test_parallel_form_equals_the_specification(T):
    tensors = inputs(T)
    weight = torch.randn(2, T, 5, dtype=torch.float64)
    results = []
    for form in ("chunked", "recurrent"):
        states, last = diagonal_scan(*tensors, form=form)
        results.append([states, last, *torch.autograd.grad((states * weight).sum() + last.sum(), tensors)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_specification_against_a_sum_of_products():
    a, b, h = inputs(6)
    states, last = diagonal_scan(a, b, h, form="recurrent")
    want = a.prod(1) * h + sum(a[:, s + 1 :].prod(1) * b[:, s] for s in range(6))
    torch.testing.assert_close(states[:, -1], want)
    torch.testing.assert_close(last, want)


def test_state_carries_over_a_cut():
    a, b, h = inputs(21)
    whole, final = diagonal_scan(a, b, h)
    first, middle = diagonal_scan(a[:, :8], b[:, :8], h)
    second, end = diagonal_scan(a[:, 8:], b[:, 8:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, final)


@pytest.mark.parametrize("broken", ["b", "state", "empty"])
def test_wrong_shapes_are_refused(broken):
    a, b, h = inputs(4)
    if broken == "b":
        b = b[:, :3]
    elif broken == "state":
        h = h[:, :3]
    else:
        a, b = a[:, :0], b[:, :0]
    with pytest.raises(ValueError, match="diagonal_scan"):
        diagonal_scan(a, b, h)
