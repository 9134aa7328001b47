import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnn.ops import head_loss

VOCABULARY, WIDTH = 50, 16


def draw(batch, T, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    x = torch.randn(batch, T, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    return x, weight, torch.randint(VOCABULARY, (batch, T))


def loss_and_gradients(function, x, weight, *rest, **options):
    loss = function(x, weight, *rest, **options)
    return loss.detach(), *torch.autograd.grad(0.3 * loss, (x, weight))


def plain(x, weight, labels):
    return F.cross_entropy((x @ weight.T).flatten(0, 1), labels.flatten())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 30), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 3000), st.integers(0, 99)
)
def test_slices_are_the_whole(batch, T, ignored, logits, seed):
    """Slices of any size, down to one token; if no label is scored, the loss is NaN and the gradient 0."""
    x, weight, labels = draw(batch, T, seed)
    labels[torch.rand(labels.shape) < ignored] = -100
    expected = loss_and_gradients(plain, x, weight, labels)
    for ours, theirs in zip(loss_and_gradients(head_loss, x, weight, labels, logits=logits), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    """The loss and its gradients are as near to float64 as those of PyTorch."""
    x, weight, labels = draw(4, 30, dtype=torch.float32)
    exact = loss_and_gradients(plain, x.double(), weight.double(), labels)
    with torch.autocast("cpu", dtype):
        ours = loss_and_gradients(head_loss, x, weight, labels, logits=500)
        theirs = loss_and_gradients(plain, x, weight, labels)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - true).norm() <= 1.5 * (other - true).norm() + 1e-6


@pytest.mark.filterwarnings("ignore")
def test_it_compiles_as_one_graph():
    x, weight, labels = draw(4, 30)
    compiled = torch.compile(head_loss, fullgraph=True, dynamic=False, backend="aot_eager")
    ours = loss_and_gradients(compiled, x, weight, labels, logits=500)
    for mine, other in zip(ours, loss_and_gradients(plain, x, weight, labels), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_no_more_than_a_slice_of_logits_is_kept():
    """With 8 slices, tensors as large as x and W are kept for the backward pass; without slices, all logits."""
    x, weight, labels = draw(8, 32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        head_loss(x, weight, labels, logits=x[0].numel() // WIDTH * VOCABULARY)
        assert sum(kept) == x.numel() + weight.numel() + 1
        kept.clear()
        head_loss(x, weight, labels)
        assert sum(kept) >= 8 * 32 * VOCABULARY


def test_a_second_derivative_of_slices_is_refused():
    x, weight, labels = draw(2, 10)
    (dx,) = torch.autograd.grad(head_loss(x, weight, labels, logits=VOCABULARY).square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.square().sum().backward()
