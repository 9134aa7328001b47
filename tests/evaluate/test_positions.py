"""Scoring asks a model for the logits of scored tokens alone, and they are those of a call on all tokens."""

import pytest
import torch

import data
from lrnn import models
from lrnn.evaluate.scoring import score
from lrnn.ops import IGNORE

SMALL = {"vocab_size": 4, "width": 16, "layers": 2}
ALL = {
    "DeltaNet": {"heads": 2, "mlp_width": 8, "conv_size": 0},
    "DeltaNet as in the group tasks": {"heads": 2, "conv_size": 0, "qk_activation": "identity"},
    "DeltaNet with a convolution": {"heads": 2, "mlp_width": 8},
    "DeltaProduct": {"heads": 2},
    "Mamba": {"state_size": 3, "conv_size": 0},
    "Mamba with a convolution": {"state_size": 3},
    "MLSTM": {"heads": 2},
    "SLSTM": {"heads": 2, "mlp_width": 8},
    "Transformer": {"heads": 2, "mlp_width": 8},
}


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_positions(name):
    model = getattr(models, name.split()[0])(**SMALL, **ALL[name]).eval()
    tokens = torch.randint(0, 4, (3, 50))
    logits, _ = model(tokens)
    state = model(tokens[:, :40], None, torch.empty(3, 0, dtype=torch.long))[1]
    positions = torch.tensor([[9, 0], [4, 5], [1, 1]])
    some, _ = model(tokens[:, 40:], state, positions)
    torch.testing.assert_close(some, logits[:, 40:].take_along_dim(positions[..., None], 1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_model_of_all_tokens_has_the_same_scores():
    class AllTokens(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, tokens, state=None):
            return self.model(tokens, state)

    model = models.DeltaNet(vocab_size=12, width=16, layers=1, heads=2, conv_size=0)
    task = data.ModularArithmeticBrackets()
    batch = next(iter(task.evaluation_batches(8, 90, 300)))
    assert (batch.labels != IGNORE).sum() == len(batch.labels)
    some = score(model, task, 8, 90, 300)
    assert some == score(AllTokens(model), task, 8, 90, 300) == score(model, task, 8, 90, 300, segment=17)
