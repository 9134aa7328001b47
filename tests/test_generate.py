from itertools import islice

import pytest
import torch

from data.text.tokenizer import load_tokenizer
from lrnn.generate import generate, load_model, sample
from lrnn.models import DeltaNet, Mamba
from lrnn.runtime.errors import ConfigError


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def save(model, path):
    saved = {"model": model.class_path, "hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    torch.save(saved, path)
    return str(path)


@pytest.mark.parametrize("architecture", [DeltaNet, Mamba])
@pytest.mark.parametrize("eigenvalue_range", [(0, 1), (-1, 1)])
def test_the_likeliest_tokens_against_reading_everything_again(architecture, eigenvalue_range, tmp_path):
    made = architecture(eigenvalue_range=eigenvalue_range, width=32, vocab_size=50, layers=2, init_std=0.3)
    model = load_model(save(made, tmp_path / "last.ckpt"))
    tokens = [7, 1, 44]
    got = list(islice(sample(model, torch.tensor(tokens), temperature=0, top_k=1, seed=0), 20))
    for _ in range(20):
        with torch.no_grad():
            tokens.append(int(made.eval()(torch.tensor([tokens]))[0][0, -1].argmax()))
    assert got == tokens[3:] and len(set(got)) > 2


def test_tokens_are_drawn_by_their_probability_among_the_top_k():
    model = DeltaNet(width=32, vocab_size=20, init_std=0.3).eval()
    prompt = torch.tensor([3, 4])
    with torch.no_grad():
        best, tokens = model(prompt[None])[0][0, -1].topk(5)
    wanted = torch.zeros(20).scatter(0, tokens, torch.softmax(best / 0.7, 0))
    n = 1500
    drawn = torch.tensor([next(sample(model, prompt, 0.7, 5, seed)) for seed in range(n)])
    got = drawn.bincount(minlength=20) / n
    assert ((got - wanted).abs() < 5 * (wanted * (1 - wanted) / n).sqrt() + 1e-9).all()


def test_the_command_prints_the_prompt_and_a_continuation(tmp_path, capsys):
    checkpoint = save(DeltaNet(width=32, vocab_size=32000), tmp_path / "last.ckpt")
    for _ in range(2):
        generate(checkpoint, "def  f(é", tokens=30)
    first, second = capsys.readouterr().out.split("def  f(é")[1:]
    assert first == second and len(load_tokenizer("data/mistral_v1").encode([first])[0]) > 10


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint: there is no nothing.ckpt"):
        generate("nothing.ckpt")
    for path, problem in (
        ("DeltaNet", "is of an older version of this project"),
        ("torch.nn.Linear", "can't be loaded .*model: torch.nn.Linear can't be built as a LanguageModel"),
        ("os.system", "can't be loaded"),
        ("nowhere.Model", "can't be loaded"),
    ):
        torch.save({"model": path, "hyper_parameters": {}, "state_dict": {}}, tmp_path / "foreign.ckpt")
        with pytest.raises(ConfigError, match=problem) as error:
            generate(str(tmp_path / "foreign.ckpt"))
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    checkpoint = save(DeltaNet(width=32, vocab_size=50), tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match="tokenizer: data/mistral_v1 has 32000 tokens, the model 50"):
        generate(checkpoint)
    with pytest.raises(ConfigError, match="top_k: must be at least 1, got 0"):
        generate(checkpoint, top_k=0)
