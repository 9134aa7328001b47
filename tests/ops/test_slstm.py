"""The sLSTM against the paper's equations; the contract of all recurrences is in test_recurrences.py."""

import torch

from lrnn.ops import slstm


def inputs(T, B=2, H=3, D=4):
    x, R = torch.randn(B, T, H, 4, D, dtype=torch.float64), torch.randn(H, D, 4 * D, dtype=torch.float64)
    return x.requires_grad_(), R.requires_grad_()


def unstabilised(x, R):
    """The paper's equations, head by head."""
    B, T, H, _, D = x.shape
    outputs = torch.zeros(B, T, H, D, dtype=x.dtype)
    for head in range(H):
        h = c = n = torch.zeros(B, D, dtype=x.dtype)
        for t in range(T):
            i, f, z, o = ((h @ R[head])[:, g * D : (g + 1) * D] + x[:, t, head, g] for g in range(4))
            c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
            n = torch.sigmoid(f) * n + torch.exp(i)
            h = torch.sigmoid(o) * c / n
            outputs[:, t, head] = h
    return outputs


def test_against_the_paper_without_the_stabiliser():
    tensors = inputs(25)
    weight = torch.randn(2, 25, 3, 4, dtype=torch.float64)
    got, want = slstm(*tensors)[0], unstabilised(*tensors)
    torch.testing.assert_close(got, want)
    for a, b in zip(*(torch.autograd.grad((h * weight).sum(), tensors) for h in (got, want)), strict=True):
        torch.testing.assert_close(a, b)


def test_gates_of_any_size_stay_finite():
    x, R = (tensor.detach().float() for tensor in inputs(100))
    tensors = (1e3 * x).requires_grad_(), R.requires_grad_()
    h, state = slstm(*tensors)
    assert all(x.isfinite().all() for x in (h, *state, *torch.autograd.grad(h.sum(), tensors)))
