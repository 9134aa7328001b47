"""Small models, the folders that they are exported to, and these folders as the ecosystem loads them."""

from pathlib import Path

import pytest
import torch

from lrnn.export.__main__ import export

SMALL = {"vocab_size": 50, "width": 32, "layers": 2}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def _description(model):
    return {"model": model.class_path, "hyper_parameters": dict(model.hparams)}


def _save_run(model, folder):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("data:\n  class_path: data.Parity\n  init_args: {}\n")
    torch.save({**_description(model), "state_dict": model.state_dict()}, folder / "checkpoints/last.ckpt")
    return str(folder)


def _random_model(architecture, **options):
    model = architecture(**{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def _counting(length):
    return (torch.randint(50, (8, 1)) + 3 * torch.arange(length)) % 50


def _taught_model(architecture, **options):
    model = architecture(vocab_size=50, width=64, layers=2, init_std=0.02, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        tokens = _counting(41)
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    return model.eval()


def _load(folder, loader="AutoModelForCausalLM", **options):
    import transformers

    model, report = getattr(transformers, loader).from_pretrained(folder, output_loading_info=True, **options)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    return model.eval()


def _largest_difference(got, want):
    return ((got.float() - want).abs().max() / want.abs().max()).item()


@pytest.fixture(scope="session")
def description():
    """What a checkpoint says of a model, beside its weights: `description(model)`."""
    return _description


@pytest.fixture(scope="session")
def save_run():
    """Save a run without a tokenizer, as one on a synthetic task: `save_run(model, folder)` gives the folder's name."""
    return _save_run


@pytest.fixture
def exported(tmp_path):
    """Export a model: `exported(model, **options)` gives the folder."""

    def export_model(model, folder=tmp_path, **options):
        export(_save_run(model, folder / "run"), str(folder / "exported"), **options)
        return folder / "exported"

    return export_model


@pytest.fixture(scope="session")
def random_model():
    """Add noise to every weight, since some start at zero or one, where a mistake would not show."""
    return _random_model


@pytest.fixture(scope="session")
def counting():
    """Draw sequences (8, length) that count by threes, modulo 50, from a random start."""
    return _counting


@pytest.fixture(scope="session")
def taught_model():
    """Teach a model to count by threes, so that its logits exceed the rounding, as those of a language model do."""
    return _taught_model


@pytest.fixture(scope="session")
def load():
    """Load a folder by a class of transformers. Every weight must have its place there."""
    return _load


@pytest.fixture(scope="session")
def largest_difference():
    """Largest difference of logits, relative to the largest logit, which is a few units here."""
    return _largest_difference
