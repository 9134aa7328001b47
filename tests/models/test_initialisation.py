import torch
from torch import nn

from lrnn.models import Mamba
from lrnn.models.initialisation import build_with_normal_weights


class Own(nn.Module):
    """A module of a user, with weights that it draws as a linear map does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(300, 200)
        self.embedding = nn.Embedding(300, 200)
        self.weight = nn.Parameter(torch.full((200, 300), torch.nan))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)


def test_only_linear_and_embedding_weights_are_normal():
    module = build_with_normal_weights(Own, 0.5)
    for weight in (module.linear.weight, module.embedding.weight):
        assert abs(weight.std() - 0.5) < 0.01 and weight.abs().max() > 1.5
    bound = 300**-0.5
    for uniform in (module.weight, module.linear.bias):
        assert 0.9 * bound < uniform.abs().max() <= bound


def test_no_weight_of_a_model_is_left_out():
    """Weights that are not drawn would be what the memory held before."""
    torch.manual_seed(0)
    a = Mamba(vocab_size=50, width=64, layers=2, init_std=0.02, tie_embeddings=True)
    torch.manual_seed(0)
    b = Mamba(vocab_size=50, width=64, layers=2, init_std=0.02, tie_embeddings=True)
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y), name
    assert a.backbone.head.weight is a.backbone.embedding.weight and abs(a.backbone.head.weight.std() - 0.02) < 2e-3
