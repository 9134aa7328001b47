import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnn.ops import mlstm

RANGES = ((0, 1), (-1, 1))
LENGTHS = (1, 2, 63, 64, 65, 257)


def inputs(T, B=2, H=3, K=8, V=5):
    """q, k, v, input and forget gate, some of them far out, and C, n, m."""
    q, k = torch.randn(2, B, T, H, K, dtype=torch.float64)
    v = torch.randn(B, T, H, V, dtype=torch.float64)
    input_gate, forget_gate = 3 * torch.randn(2, B, T, H, dtype=torch.float64)
    input_gate[:, 3::7] = 40
    forget_gate[:, 1::5] = 30
    forget_gate[:, 2::11] = -30
    state = torch.randn(B, H, K, V, dtype=torch.float64), torch.randn(B, H, K, dtype=torch.float64)
    m = torch.randn(B, H, dtype=torch.float64)
    return [x.requires_grad_() for x in (q, k, v, input_gate, forget_gate, *state)] + [m]


def outputs_and_gradients(tensors, span, **kwargs):
    *rest, C, n, m = tensors
    h, state = mlstm(*rest, span, (C, n, m), **kwargs)
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (h, *state[:2]))
    return [h, *state, *torch.autograd.grad(loss, tensors[:-1])]


def relative_error(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("span", RANGES)
@pytest.mark.parametrize("T", LENGTHS)
def test_chunked_form_equals_the_specification(T, span):
    tensors = inputs(T)
    want = outputs_and_gradients(tensors, span, form="recurrent")
    got = outputs_and_gradients(tensors, span, form="chunked")
    assert max(map(relative_error, got, want)) < 1e-9


@pytest.mark.parametrize("span", RANGES)
def test_specification_against_the_paper_without_the_stabiliser(span):
    low, high = span
    q, k, v, i, f = (x.detach()[0, :, 0] for x in inputs(T=30)[:5])
    i, f = i.clamp(-3, 3), f.clamp(-4, 4)  # few enough to need none
    h, _ = mlstm(*(x[None, :, None] for x in (q, k, v, i, f)), span, form="recurrent")
    C, n = torch.zeros(8, 5, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    for t in range(30):
        forget, write = low + (high - low) * torch.sigmoid(f[t]), torch.exp(i[t])
        C = forget * C + write * torch.outer(k[t], v[t])
        n = forget * n + write * k[t]
        want = C.T @ q[t] / (n @ q[t]).abs().clamp(min=1)
        torch.testing.assert_close(h[0, t, 0], want, rtol=1e-4, atol=1e-4)  # the denominator's epsilon


@settings(max_examples=30, deadline=None)
@given(T=st.integers(2, 40), cut=st.integers(1, 39), chunk_size=st.integers(1, 17), span=st.sampled_from(RANGES))
def test_state_carries_over_any_cut(T, cut, chunk_size, span):
    cut = min(cut, T - 1)
    *rest, C, n, m = (x.detach() for x in inputs(T))
    whole, final = mlstm(*rest, span, (C, n, m), chunk_size=chunk_size)
    first, middle = mlstm(*(x[:, :cut] for x in rest), span, (C, n, m), chunk_size=chunk_size)
    second, end = mlstm(*(x[:, cut:] for x in rest), span, middle, chunk_size=chunk_size)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    for a, b in zip(end, final, strict=True):
        torch.testing.assert_close(a, b)


def test_gates_of_any_size_stay_finite():
    for scale in (1e3, -1e3):
        tensors = [x.detach().float() for x in inputs(100)[:5]]
        tensors[3].mul_(scale)
        tensors[4].mul_(scale)
        tensors[4][:, ::3] = 0  # f = 0 in the range (-1, 1)
        tensors = [x.requires_grad_() for x in tensors]
        for span in RANGES:
            h, state = mlstm(*tensors, span)
            gradients = torch.autograd.grad(h.sum(), tensors)
            assert all(x.isfinite().all() for x in (h, *state, *gradients))


def test_state_stays_in_float32_for_bfloat16_inputs():
    tensors = [x.detach().clamp(-4, 4).bfloat16() for x in inputs(70)[:5]]
    h, state = mlstm(*tensors, (0, 1))
    assert h.dtype == torch.bfloat16 and {x.dtype for x in state} == {torch.float32}
    want, _ = mlstm(*(x.double() for x in tensors), (0, 1), form="recurrent")
    assert relative_error(h.double(), want) < 1e-2


@pytest.mark.parametrize("broken", ["gate", "state", "empty"])
def test_wrong_shapes_are_refused(broken):
    *rest, C, n, m = inputs(4)
    if broken == "gate":
        rest[4] = rest[4][:, :3]
    elif broken == "state":
        C = C.mT
    else:
        rest = [x[:, :0] for x in rest]
    with pytest.raises(ValueError, match="mlstm"):
        mlstm(*rest, (0, 1), (C, n, m))
