import io
from contextlib import redirect_stdout
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import DataError
from data.text.tokenizer import load_tokenizer
from lrnn.generate import encode_prompt, generate, load_model, sample, tokens_that_end_the_prompt
from lrnn.models import DeltaNet, Mamba
from lrnn.runtime.errors import ConfigError

MISTRAL = load_tokenizer(str(Path(__file__).parents[1] / "data/mistral_v1"))


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


class Oracle:
    """Knows one document. It has read EOS before it, and refuses to read any token that is not the document's."""

    vocab_size = 32000

    def __init__(self, ids):
        self.ids = [2, *ids, 2]

    def to(self, device):
        return self

    def __call__(self, tokens):
        logits, read = self.step(tokens[0], 0)
        return logits[:, None], read

    def step(self, tokens, read):
        assert tokens.tolist() == self.ids[read : read + len(tokens)]
        read += len(tokens)
        return torch.zeros(1, 32000).index_fill(1, torch.tensor(self.ids[read]), 9.0), read


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab(  \n\té漢▁"), max_size=12), st.data())
@example("def f(x):\n    return  x", None)
@example("   a", None)
def test_a_prompt_and_its_continuation_are_encoded_as_the_whole_text(text, data):
    (ids,) = MISTRAL.encode([text])
    written = MISTRAL.decode(ids)
    ends = [k for k in range(len(text) + 1) if " " in text[max(0, k - 1) : k + 1] or k in (0, len(text))]
    for end in ends if data is None else [data.draw(st.sampled_from(ends))]:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
            patch.setattr("lrnn.generate.load_model", lambda checkpoint: Oracle(ids.tolist()))
            patch.setattr("lrnn.generate.load_tokenizer", lambda name: MISTRAL)
            generate(prompt=text[:end], temperature=0)
        assert printed.getvalue() == written + "\n"


def test_the_first_token_after_a_space_begins_with_it():
    tokenizer, model = MISTRAL, DeltaNet(width=16, vocab_size=32000, layers=1).eval()
    for prompt in ("def ", "a\n    ", " ", "café  "):
        ids, text = encode_prompt(tokenizer, prompt)
        assert text == prompt and tokenizer.decode(ids) == prompt.rstrip(" ")
        allowed = partial(tokens_that_end_the_prompt, tokenizer, ids, text)
        for seed in range(2):
            tokens = islice(sample(model, torch.tensor([2, *ids]), 1.0, 50, seed, allowed), 1 + len(prompt))
            assert tokenizer.decode([*ids, *tokens]).startswith(prompt)


def test_the_tokenizer_is_that_of_the_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    checkpoint = save(DeltaNet(width=32, vocab_size=32000), tmp_path / "checkpoints/last.ckpt")
    (tmp_path / "config.yaml").write_text("data:\n  init_args:\n    tokenizer: nowhere.model\n")
    with pytest.raises(DataError, match=r"tokenizer: nowhere\.model is not a file"):
        generate(checkpoint)
    generate(checkpoint, tokenizer="data/mistral_v1", tokens=1)


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
    checkpoint = save(DeltaNet(width=32, vocab_size=32000), tmp_path / "last.ckpt")
    for options, problem in (
        ({"top_k": 0}, "top_k: must be a finite number, at least 1, got 0"),
        ({"tokens": 0}, "tokens: must be a finite number, at least 1, got 0"),
        ({"temperature": float("nan")}, "temperature: must be a finite number, at least 0, got nan"),
        ({"seed": -1}, r"seed: must lie in \[0, 2\^63\), got -1"),
        ({"device": "abacus"}, "device: must be cpu or cuda, if there is one, got abacus"),
        ({"prompt": "\udcff"}, "prompt: is not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=problem):
            generate(checkpoint, **options)
    broken = DeltaNet(width=32, vocab_size=32000)
    torch.nn.init.constant_(broken.backbone.norm.weight, float("nan"))
    with pytest.raises(ConfigError, match="checkpoint: the model gives logits that are not finite"):
        generate(save(broken, tmp_path / "last.ckpt"), temperature=0)
