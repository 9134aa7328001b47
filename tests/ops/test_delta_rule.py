"""The delta rule against its definition; the contract of all recurrences is in test_recurrences.py."""

import torch
import torch.nn.functional as F

from lrnn.ops import delta_rule


def test_specification_is_the_product_of_transition_matrices():
    q, v, k = (torch.randn(1, 5, 1, size, dtype=torch.float64) for size in (8, 5, 8))
    k, beta = F.normalize(k, dim=-1), torch.tensor([2, 0.3, 1, 0, 1.7], dtype=torch.float64)[None, :, None]
    state = torch.randn(1, 1, 8, 5, dtype=torch.float64)
    o, _ = delta_rule(q, k, v, beta, state, form="recurrent")
    S = state[0, 0]
    for t in range(5):
        k_t = k[0, t, 0]
        S = (torch.eye(8) - beta[0, t, 0] * torch.outer(k_t, k_t)) @ S + beta[0, t, 0] * torch.outer(k_t, v[0, t, 0])
        torch.testing.assert_close(o[0, t, 0], S.T @ q[0, t, 0])


def test_beta_of_two_reflects_without_decay():
    """100,000 reflections by one key leave the state as it was, in float32."""
    k = F.normalize(torch.randn(1, 1, 1, 8), dim=-1).expand(1, 100_000, 1, 8)
    state = torch.randn(1, 1, 8, 4)
    zeros = torch.zeros(1, 100_000, 1, 4)
    _, final = delta_rule(k, k, zeros, torch.full((1, 100_000, 1), 2.0), state)
    torch.testing.assert_close(final, state, rtol=0, atol=0.05)
    _, odd = delta_rule(k[:, 1:], k[:, 1:], zeros[:, 1:], torch.full((1, 99_999, 1), 2.0), state)
    torch.testing.assert_close(k[0, 0] @ odd[0, 0], -k[0, 0] @ state[0, 0], rtol=0, atol=0.05)
