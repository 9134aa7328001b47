"""What ops compute on a CPU without a gradient is what they compute with one, also at gates that are closed."""

import pytest
import torch
import torch.nn.functional as F

from lrnn.ops import delta_rule, delta_rule_state, selective_scan, softplus


@pytest.mark.parametrize("eigenvalue_range", [(0, 1), (-1, 1)])
@pytest.mark.parametrize(("batch", "T", "D", "N"), [(3, 21, 5, 4), (600, 7, 64, 4), (1, 1, 2, 1)])
def test_selective_scan(eigenvalue_range, batch, T, D, N):
    u, z, B, C, h = (torch.randn(batch, *shape) for shape in ((T, D), (T, D), (T, N), (T, N), (D, N)))
    dt, A = F.softplus(100 * z), -torch.rand(D, N) - 0.5  # transitions at both ends of their range
    given = u, dt, A, B, C, torch.randn(D), eigenvalue_range, h
    y, last = selective_scan(*(x.double() if isinstance(x, torch.Tensor) else x for x in given), form="recurrent")
    with torch.no_grad():
        ours, our_last = selective_scan(*given, form="chunked")
    torch.testing.assert_close(ours, y.float(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(our_last, last.float(), rtol=1e-4, atol=1e-3)
    assert torch.equal(h, given[-1])  # the state that was given is kept


@pytest.mark.parametrize(("T", "K", "V"), [(70, 16, 16), (32, 8, 5), (5, 4, 9), (1, 3, 2)])
def test_delta_rule(T, K, V):
    q, k, v, logits = (torch.randn(2, T, 3, size) for size in (K, K, V, 1))
    k, beta, S = F.normalize(k, dim=-1), 2 * torch.sigmoid(60 * logits[..., 0]), torch.randn(2, 3, K, V)
    o, last = delta_rule(*(x.double() for x in (q, k, v, beta, S)), form="recurrent")
    with torch.no_grad():
        ours, our_last = delta_rule(q, k, v, beta, S, form="chunked")
        alone = delta_rule_state(k, v, beta, S)
    torch.testing.assert_close(ours, o.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(our_last, last.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, last.float(), rtol=1e-4, atol=1e-4)


def test_softplus():
    x = torch.cat([torch.linspace(-120, 120, 5001), torch.linspace(-10, -8, 5001), torch.tensor([torch.inf])])
    with torch.no_grad():
        torch.testing.assert_close(softplus(x), F.softplus(x.double()).float(), rtol=3e-7, atol=5e-18)
    assert torch.equal(softplus(x.requires_grad_()), F.softplus(x))  # bit for bit in training
