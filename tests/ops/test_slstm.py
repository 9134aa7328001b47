import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnn.ops import slstm


def inputs(T, B=2, H=3, D=4, scale=1.0):
    x = scale * torch.randn(B, T, H, 4, D, dtype=torch.float64)
    return x.requires_grad_(), torch.randn(H, D, 4 * D, dtype=torch.float64).requires_grad_()


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


@settings(max_examples=20, deadline=None)
@given(T=st.integers(2, 20), cut=st.integers(1, 19))
def test_state_carries_over_any_cut(T, cut):
    cut = min(cut, T - 1)
    x, R = inputs(T)
    whole, final = slstm(x, R)
    first, middle = slstm(x[:, :cut], R)
    second, end = slstm(x[:, cut:], R, middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    for a, b in zip(end, final, strict=True):
        torch.testing.assert_close(a, b)


def test_gates_of_any_size_stay_finite():
    tensors = [x.detach().float().requires_grad_() for x in inputs(100, scale=1e3)]
    h, state = slstm(*tensors)
    assert all(x.isfinite().all() for x in (h, *state, *torch.autograd.grad(h.sum(), tensors)))
    assert slstm(*(x.bfloat16() for x in tensors))[1][0].dtype == torch.float32


@pytest.mark.parametrize("broken", ["gates", "state", "empty"])
def test_wrong_shapes_are_refused(broken):
    x, R = inputs(3)
    state = None
    if broken == "gates":
        x = x[:, :, :, :3]
    elif broken == "state":
        state = (torch.zeros(2, 3, 5),) * 4
    else:
        x = x[:, :0]
    with pytest.raises(ValueError, match="slstm"):
        slstm(x, R, state)
