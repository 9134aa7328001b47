"""Compiled training: its gradients, and how many models and lengths one process compiles."""

import shutil
from functools import partial

import pytest
import torch

from callbacks.compile_training import compile_hot_paths
from lrnn.models import DeltaNet, TokenMatrices


@pytest.fixture
def inductor(monkeypatch, tmp_path):
    """The compiler of a GPU run, on a CPU, with an empty cache."""
    if shutil.which("g++") is None:
        pytest.skip("PyTorch compiles for a CPU with g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's own
def test_compiled_gradients_equal_plain_ones(inductor):
    """PyTorch's compiler writes over saved tensors that the gradient still needs, unless it is told not to."""
    model = TokenMatrices(matrix_size=3, vocab_size=5)
    tokens = torch.randint(5, (2, 9))
    results = []
    for compiled in (False, True):
        if compiled:
            compile_hot_paths(model)
        loss = model.loss(tokens, tokens)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(results[1], results[0])


@torch.library.custom_op("lrnn_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def _(x):
    return torch.empty_like(x)


class Twice(torch.nn.Module):
    def forward(self, x):
        return twice(x)

    def hot_paths(self):
        return [(self, "forward")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_changed_gradient_of_an_op_is_not_read_from_the_cache(inductor):
    for factor in (2, 3):  # a mistake, and its repair
        twice.register_autograd(lambda ctx, grad, factor=factor: factor * grad)
        model, x = Twice(), torch.ones(3, requires_grad=True)
        compile_hot_paths(model)
        model.forward(x).sum().backward()
        assert x.grad.tolist() == [factor] * 3


def test_many_models_and_lengths_compile_in_one_process(monkeypatch):
    """A curriculum has a length for each stage, and PyTorch's limit is 8 variants of a method."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # set back after the test
    options = {"width": 4, "heads": 1, "layers": 1, "form": "recurrent"}
    model = DeltaNet(**options)
    compile_hot_paths(model)
    for length in range(1, 11):
        model.loss(*torch.randint(3, (2, 1, length)))
    monkeypatch.setattr("callbacks.compile_training.MOST_VARIANTS", 1)
    for heads in (1, 2, 4):
        model = DeltaNet(**options | {"heads": heads})
        compile_hot_paths(model)
        model.loss(*torch.randint(3, (2, 1, 2)))
