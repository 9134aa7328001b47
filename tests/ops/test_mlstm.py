"""The mLSTM against the paper's equations; the contract of all recurrences is in test_recurrences.py."""

import pytest
import torch

from lrnn.ops import mlstm

RANGES = ((0, 1), (-1, 1))


@pytest.mark.parametrize("span", RANGES)
def test_specification_against_the_paper_without_the_stabiliser(span):
    low, high = span
    q, k, v = (torch.randn(30, size, dtype=torch.float64) for size in (8, 8, 5))
    i, f = (3 * torch.randn(2, 30, dtype=torch.float64)).clamp(-3, 3)  # moderate gates need no stabiliser
    h, _ = mlstm(*(x[None, :, None] for x in (q, k, v, i, f)), span, form="recurrent")
    C, n = torch.zeros(8, 5, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    for t in range(30):
        forget, write = low + (high - low) * torch.sigmoid(f[t]), torch.exp(i[t])
        C = forget * C + write * torch.outer(k[t], v[t])
        n = forget * n + write * k[t]
        want = C.T @ q[t] / (n @ q[t]).abs().clamp(min=1)
        torch.testing.assert_close(h[0, t, 0], want, rtol=1e-4, atol=1e-4)  # the denominator's epsilon


@pytest.mark.parametrize("span", RANGES)
@pytest.mark.parametrize("scale", [3e3, -3e3])
def test_gates_of_any_size_stay_finite(span, scale):
    q, k, v = (torch.randn(2, 100, 3, size) for size in (8, 8, 5))
    input_gate, forget_gate = scale * torch.randn(2, 2, 100, 3)
    input_gate[:, 3::7], forget_gate[:, 1::5] = 13 * scale, 10 * scale
    forget_gate[:, ::3] = 0  # f = 0 in the range (-1, 1)
    tensors = [x.requires_grad_() for x in (q, k, v, input_gate, forget_gate)]
    h, state = mlstm(*tensors, span)
    assert all(x.isfinite().all() for x in (h, *state, *torch.autograd.grad(h.sum(), tensors)))


def test_gates_near_0_and_near_1_lose_no_digits():
    """The chunked form in float32 against the specification in float64."""
    q, k, v = (torch.randn(2, 256, 2, 8) for _ in range(3))
    input_gate, forget_gate = torch.randn(2, 256, 2), 10 * torch.rand(2, 256, 2)
    forget_gate[torch.rand(2, 256, 2) < 0.3] *= -10

    def outputs_and_gradients(dtype, form):
        tensors = [x.to(dtype).requires_grad_() for x in (q, k, v, input_gate, forget_gate)]
        h, _ = mlstm(*tensors, (0, 1), form=form)
        return h, *torch.autograd.grad(h.square().sum(), tensors)

    got, want = outputs_and_gradients(torch.float32, "chunked"), outputs_and_gradients(torch.float64, "recurrent")
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() / b.norm() < 1e-5
