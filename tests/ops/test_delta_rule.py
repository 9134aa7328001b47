import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnn.ops import delta_rule

LENGTHS = (1, 2, 63, 64, 65, 257)


def inputs(T, scale, B=2, H=3, K=8, V=5, dtype=torch.float64):
    """q, k, v, beta with entries of beta exactly 0 and exactly `scale`, and an initial state."""
    q, k = torch.randn(2, B, T, H, K, dtype=dtype)
    beta = scale * torch.sigmoid(3 * torch.randn(B, T, H, dtype=dtype))
    beta[:, ::3] = scale
    beta[:, 1::5] = 0
    tensors = (
        q,
        F.normalize(k, dim=-1),
        torch.randn(B, T, H, V, dtype=dtype),
        beta,
        torch.randn(B, H, K, V, dtype=dtype),
    )
    return [x.requires_grad_() for x in tensors]


def outputs_and_gradients(tensors, **kwargs):
    o, state = delta_rule(*tensors, **kwargs)
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (o, state))
    return [o, state, *torch.autograd.grad(loss, tensors)]


def relative_error(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("T", LENGTHS)
def test_chunked_form_equals_the_specification(T, scale):
    tensors = inputs(T, scale)
    want = outputs_and_gradients(tensors, form="recurrent")
    got = outputs_and_gradients(tensors, form="chunked")
    assert max(map(relative_error, got, want)) < 1e-9


def test_specification_is_the_product_of_transition_matrices():
    q, k, v, beta, state = inputs(T=5, scale=2, B=1, H=1)
    S = state[0, 0]
    for t in range(5):
        k_t = k[0, t, 0]
        S = (torch.eye(8) - beta[0, t, 0] * torch.outer(k_t, k_t)) @ S + beta[0, t, 0] * torch.outer(k_t, v[0, t, 0])
        torch.testing.assert_close(delta_rule(q, k, v, beta, state, form="recurrent")[0][0, t, 0], S.T @ q[0, t, 0])


@settings(max_examples=30, deadline=None)
@given(T=st.integers(2, 40), cut=st.integers(1, 39), chunk_size=st.integers(1, 17))
def test_state_carries_over_any_cut(T, cut, chunk_size):
    cut = min(cut, T - 1)
    q, k, v, beta, state = inputs(T, 2)
    whole, final = delta_rule(q, k, v, beta, state, chunk_size=chunk_size)
    first, middle = delta_rule(*(x[:, :cut] for x in (q, k, v, beta)), state, chunk_size=chunk_size)
    second, end = delta_rule(*(x[:, cut:] for x in (q, k, v, beta)), middle, chunk_size=chunk_size)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, final)


def test_beta_of_two_reflects_without_decay():
    """100,000 reflections by one key leave the state as it was, in float32."""
    k = F.normalize(torch.randn(1, 1, 1, 8), dim=-1).expand(1, 100_000, 1, 8)
    state = torch.randn(1, 1, 8, 4)
    zeros = torch.zeros(1, 100_000, 1, 4)
    _, final = delta_rule(k, k, zeros, torch.full((1, 100_000, 1), 2.0), state)
    torch.testing.assert_close(final, state, rtol=0, atol=0.05)
    _, odd = delta_rule(k[:, 1:], k[:, 1:], zeros[:, 1:], torch.full((1, 99_999, 1), 2.0), state)
    torch.testing.assert_close(k[0, 0] @ odd[0, 0], -k[0, 0] @ state[0, 0], rtol=0, atol=0.05)


def test_state_stays_in_float32_for_bfloat16_inputs():
    tensors = [x.detach().bfloat16() for x in inputs(70, 2)]
    o, state = delta_rule(*tensors[:4])
    assert (o.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    want, _ = delta_rule(*(x.double() for x in tensors[:4]), form="recurrent")
    assert relative_error(o.double(), want) < 1e-2


@pytest.mark.parametrize("broken", ["beta", "state", "empty"])
def test_wrong_shapes_are_refused(broken):
    q, k, v, beta, state = inputs(4, 1)
    if broken == "beta":
        beta = beta[:, :3]
    elif broken == "state":
        state = state.mT
    else:
        q, k, v, beta = (x[:, :0] for x in (q, k, v, beta))
    with pytest.raises(ValueError, match="delta_rule"):
        delta_rule(q, k, v, beta, state)
