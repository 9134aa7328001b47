import io
import json
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import DataError
from data.text.tokenizer import load_tokenizer
from lrnn.evaluate.generation import Continuation, encode_prompt, generate_texts, tokens_that_end_the_prompt
from lrnn.generate import generate
from lrnn.models import DeltaNet
from lrnn.models.decoding import Sampling, continue_prompts
from lrnn.runtime.errors import ConfigError

MISTRAL = load_tokenizer(str(Path(__file__).parents[1] / "data/mistral_v1"))


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def save(model, path):
    saved = {"model": model.class_path, "hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    torch.save(saved, path)
    return str(path)


def test_the_command_prints_the_prompt_and_a_continuation(tmp_path, capsys):
    checkpoint = save(DeltaNet(width=32, vocab_size=32000), tmp_path / "last.ckpt")
    for _ in range(2):
        generate(checkpoint, "def  f(é", tokens=30)
    first, second = capsys.readouterr().out.split("def  f(é")[1:]
    assert first == second and len(load_tokenizer("data/mistral_v1").encode([first])[0]) > 10


def test_several_prompts_from_the_command_line_and_from_files(tmp_path, capsys):
    checkpoint = save(DeltaNet(width=16, vocab_size=32000, init_std=0.3), tmp_path / "last.ckpt")
    prompts = ["def f(x):", "a", "the \N{GREEK SMALL LETTER LAMDA} of  it\N{LINE SEPARATOR} "]
    lines = (json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    (tmp_path / "prompts.txt").write_text("".join(prompt + "\n" for prompt in prompts))
    outs = []
    for options in (
        {"prompts": prompts, "batch_size": 2},
        *({"prompt_file": str(tmp_path / f"prompts.{ending}")} for ending in ("jsonl", "txt")),
    ):
        generate(checkpoint, tokens=5, top_k=None, top_p=0.9, out=str(tmp_path / "out.jsonl"), **options)
        outs.append((tmp_path / "out.jsonl").read_text())
    records = [json.loads(line) for line in outs[0].splitlines()]
    assert outs[0] == outs[1] == outs[2] and [record["prompt"] for record in records] == prompts
    printed = capsys.readouterr().out
    assert all(record["prompt"] + record["continuation"] in printed for record in records)
    generate(checkpoint, prompts[0], tokens=5, top_k=None, top_p=0.9)  # streamed, with the draws of the first prompt
    assert capsys.readouterr().out == records[0]["prompt"] + records[0]["continuation"] + "\n"
    (tmp_path / "prompts.jsonl").write_text('"a"\n{"text": "b"}\n')
    with pytest.raises(ConfigError, match=r"prompt_file: line 2 of .*prompts\.jsonl must be a string or"):
        generate(checkpoint, prompt_file=str(tmp_path / "prompts.jsonl"))


@settings(max_examples=100, deadline=None)
@example("", "a漢a", ["漢", "a漢a"])
@given(
    st.text(st.sampled_from("ab \né漢"), max_size=5),
    st.text(st.sampled_from("ab  \né漢😀"), max_size=14),
    st.lists(st.text(st.sampled_from("ab \né漢"), min_size=1, max_size=3), max_size=3),
)
def test_a_text_ends_before_the_stop_string_that_is_complete_first(prompt, added, stop):
    (ids,) = MISTRAL.encode([prompt + added])
    text = Continuation(MISTRAL, prompt, stop)
    if ids.tolist()[: len(text.prompt_ids)] != text.prompt_ids:
        return  # the prompt ends inside a token
    whole = MISTRAL.decode(ids.tolist())[len(text.prompt) :]
    pieces = []
    for token in ids.tolist()[len(text.prompt_ids) :]:
        if text.ended:
            break
        pieces.append(text.add(token))
    pieces.append(text.finish())
    read = [whole[:n] for n in range(len(whole) + 1)]
    cuts = [text.removesuffix(max((s for s in stop if text.endswith(s)), key=len, default="")) for text in read]
    wanted = next((cut for cut, text in zip(cuts, read, strict=True) if cut != text), whole)
    assert text.text == "".join(pieces) == wanted


def test_texts_side_by_side_are_those_of_each_alone():
    model = DeltaNet(width=16, vocab_size=32000, init_std=0.5).double().eval()
    prompts = ["def f(x):\n    return", "", "a ", "漢字"]
    together = generate_texts(model, MISTRAL, prompts, 8, batch_size=3)
    assert together == [generate_texts(model, MISTRAL, [prompt], 8)[0] for prompt in prompts]
    stop = [together[0][4:6]]
    cut = generate_texts(model, MISTRAL, prompts[:1], 8, stop=stop)
    assert cut[0] == together[0][: together[0].index(stop[0])]


class Oracle:
    """Knows one document. It has read EOS before it, and refuses to read any token that is not the document's."""

    vocab_size = 32000
    device = torch.device("cpu")

    def __init__(self, ids):
        self.ids = [2, *ids, 2]
        self.backbone = self

    def to(self, device):
        return self

    def hidden_states(self, tokens, read):
        logits, read = self.step(tokens[0], read or 0)
        return logits[:, None], read

    def head(self, logits):
        return logits

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
        sampling = Sampling(1.0, 50)
        for tokens in continue_prompts(
            model,
            [[2, *ids]] * 2,
            1 + len(prompt),
            sampling,
            allowed=lambda row, sampled: allowed(sampled),  # noqa: B023
        ):
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
        ({"top_p": 0}, r"top_p: must lie in \(0, 1\], got 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        ({"stop": [""]}, "stop: must not have an empty string"),
        ({"prompts": []}, "prompts: must have at least one prompt"),
        ({"prompts": ["a"], "prompt_file": "b"}, "prompt_file: must be absent where prompts are given"),
        ({"prompt_file": "nowhere.txt"}, r"prompt_file: nowhere\.txt can't be read"),
        ({"seed": -1}, r"seed: must lie in \[0, 2\^63\), got -1"),
        ({"out": "nowhere/out.jsonl"}, "out: must be a file in a folder that exists, got nowhere/out.jsonl"),
        ({"device": "abacus"}, "device: must be cpu or cuda, if there is one, got abacus"),
        ({"prompt": "\udcff"}, "prompt: is not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=problem):
            generate(checkpoint, **options)
    broken = DeltaNet(width=32, vocab_size=32000)
    torch.nn.init.constant_(broken.backbone.norm.weight, float("nan"))
    with pytest.raises(ConfigError, match="checkpoint: the model gives logits that are not finite"):
        generate(save(broken, tmp_path / "last.ckpt"), temperature=0)
