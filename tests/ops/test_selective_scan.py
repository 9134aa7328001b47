import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnn.ops import range_scale, selective_scan

RANGES = ((0, 1), (-1, 1))
LENGTHS = (1, 2, 63, 64, 65, 257)


def inputs(T, batch=2, D=6, N=4):
    """u, dt, A, B, C, h with some dt so large that a is exactly 0 or -1 in float64, and some 0, where a is 1."""
    u, dt = torch.randn(2, batch, T, D, dtype=torch.float64)
    dt = F.softplus(3 * dt)
    dt[:, ::5] = 1000
    dt[:, 1::7] = 0
    A = -4 * torch.rand(D, N, dtype=torch.float64) - 0.1
    B, C = torch.randn(2, batch, T, N, dtype=torch.float64)
    return [x.requires_grad_() for x in (u, dt, A, B, C, torch.randn(batch, D, N, dtype=torch.float64))]


def run(tensors, eigenvalue_range, **kwargs):
    *rest, h = tensors
    return selective_scan(*rest, eigenvalue_range, h, **kwargs)


def outputs_and_gradients(tensors, eigenvalue_range, **kwargs):
    generator = torch.Generator().manual_seed(1)
    y, h = run(tensors, eigenvalue_range, **kwargs)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (y, h))
    return [y, h, *torch.autograd.grad(loss, tensors)]


def relative_error(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.parametrize("T", LENGTHS)
def test_chunked_form_equals_the_specification(T, eigenvalue_range):
    tensors = inputs(T)
    want = outputs_and_gradients(tensors, eigenvalue_range, form="recurrent")
    got = outputs_and_gradients(tensors, eigenvalue_range, form="chunked")
    assert max(map(relative_error, got, want)) < 1e-9


@pytest.mark.parametrize("eigenvalue_range", RANGES)
def test_specification_against_a_scalar_loop(eigenvalue_range):
    tensors = inputs(T=9, batch=1, D=2, N=3)
    u, dt, A, B, C, h = (x.detach() for x in tensors)
    y, _ = run(tensors, eigenvalue_range, form="recurrent")
    low, high = eigenvalue_range
    for d in range(2):
        state = h[0, d].tolist()
        for t in range(9):
            for n in range(3):
                gate = torch.exp(dt[0, t, d] * A[d, n]).item()
                state[n] = (low + (high - low) * gate) * state[n] + (dt[0, t, d] * B[0, t, n] * u[0, t, d]).item()
            assert y[0, t, d].item() == pytest.approx(sum(C[0, t, n].item() * state[n] for n in range(3)), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(T=st.integers(2, 40), cut=st.integers(1, 39), chunk_size=st.integers(1, 17), span=st.sampled_from(RANGES))
def test_state_carries_over_any_cut(T, cut, chunk_size, span):
    cut = min(cut, T - 1)
    u, dt, A, B, C, h = inputs(T)
    whole, final = selective_scan(u, dt, A, B, C, span, h, chunk_size=chunk_size)
    first, middle = selective_scan(u[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], span, h, chunk_size=chunk_size)
    second, end = selective_scan(
        u[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], span, middle, chunk_size=chunk_size
    )
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, final)


@pytest.mark.parametrize("eigenvalue_range", [(0.0, 2.0), (-1, 0), (1, -1), (-2, 2), (0,), (0, 1, 2)])
def test_other_ranges_are_refused(eigenvalue_range):
    with pytest.raises(ValueError, match=r"eigenvalue_range: must be \[0, 1\] or \[-1, 1\]"):
        range_scale(eigenvalue_range)


@pytest.mark.parametrize("broken", ["B", "state", "empty"])
def test_wrong_shapes_are_refused(broken):
    u, dt, A, B, C, h = inputs(4)
    if broken == "B":
        B = B[:, :3]
    elif broken == "state":
        h = h.mT
    else:
        u, dt, B, C = (x[:, :0] for x in (u, dt, B, C))
    with pytest.raises(ValueError, match="selective_scan"):
        selective_scan(u, dt, A, B, C, (0, 1), h)
