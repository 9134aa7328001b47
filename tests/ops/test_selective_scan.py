"""The selective scan against its definition; the contract of all recurrences is in test_recurrences.py."""

import pytest
import torch
import torch.nn.functional as F

from lrnn.ops import range_scale, selective_scan


@pytest.mark.parametrize("eigenvalue_range", [(0, 1), (-1, 1)])
def test_specification_against_a_scalar_loop(eigenvalue_range):
    T, D, N = 9, 2, 3
    u, B, C, h = (torch.randn(1, *shape, dtype=torch.float64) for shape in ((T, D), (T, N), (T, N), (D, N)))
    dt, A = F.softplus(torch.randn(1, T, D, dtype=torch.float64)), -4 * torch.rand(D, N, dtype=torch.float64)
    skip = torch.randn(D, dtype=torch.float64)
    dt[:, 3], dt[:, 6] = 1000, 0  # exp(dt A) is 0, and 1
    y, _ = selective_scan(u, dt, A, B, C, skip, eigenvalue_range, h, form="recurrent")
    low, high = eigenvalue_range
    for d in range(D):
        state = h[0, d].tolist()
        for t in range(T):
            for n in range(N):
                gate = torch.exp(dt[0, t, d] * A[d, n]).item()
                state[n] = (low + (high - low) * gate) * state[n] + (dt[0, t, d] * B[0, t, n] * u[0, t, d]).item()
            expected = sum(C[0, t, n].item() * state[n] for n in range(N)) + (skip[d] * u[0, t, d]).item()
            assert y[0, t, d].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_bias_of_the_step_sizes(form):
    u, dt, B, C = (torch.randn(2, 9, size) for size in (4, 4, 3, 3))
    A, skip, bias = -torch.rand(4, 3), torch.randn(4), torch.randn(4)
    y, h = selective_scan(u, dt, A, B, C, skip, (-1, 1), dt_bias=bias, form=form)
    want, want_h = selective_scan(u, F.softplus(dt + bias), A, B, C, skip, (-1, 1), form=form)
    torch.testing.assert_close((y, h), (want, want_h))
    with pytest.raises(ValueError, match=r"selective_scan: dt_bias must be \(4,\), got \(3,\)"):
        selective_scan(u, dt, A, B, C, skip, (-1, 1), dt_bias=bias[:3], form=form)


@pytest.mark.parametrize("eigenvalue_range", [(0.0, 2.0), (-1, 0), (1, -1), (-2, 2), (0,), (0, 1, 2)])
def test_other_ranges_are_refused(eigenvalue_range):
    with pytest.raises(ValueError, match=r"eigenvalue_range: must be \[0, 1\] or \[-1, 1\]"):
        range_scale(eigenvalue_range)
