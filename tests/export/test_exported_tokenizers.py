"""Tokenizers of exported folders give the ids that ours give, for any text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.text.tokenizer import load_tokenizer
from lrnn.export.__main__ import export
from lrnn.models import Mamba

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, save_run):
    """Ours, and the exported one as transformers loads it."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    model = Mamba(vocab_size=32000, width=16, layers=1)
    export(save_run(model, folder / "run"), str(folder / "out"), tokenizer=str(ROOT / "data/mistral_v1"))
    assert (folder / "out/TOKENIZER_LICENSE").read_text() == (ROOT / "data/mistral_v1/LICENSE").read_text()
    theirs = AutoTokenizer.from_pretrained(folder / "out", trust_remote_code=True)
    return load_tokenizer(str(ROOT / "data/mistral_v1")), theirs


def same_ids(tokenizers, texts):
    ours, theirs = tokenizers
    for ids, text in zip(ours.encode(texts), texts, strict=True):
        assert theirs(text).input_ids == theirs.encode(text) == ids.tolist()
        assert theirs.decode(ids.tolist()) == ours.decode(ids.tolist())


def test_ids_of_runs_and_of_code(tokenizers):
    same_ids(tokenizers, [mark * count for mark in (" ", "\n", "\t", "=", "a") for count in range(70)])
    same_ids(tokenizers, ["x" + " " * count + "y" for count in range(200)])
    same_ids(tokenizers, [path.read_text() for path in sorted((ROOT / "lrnn").rglob("*.py"))])
    same_ids(tokenizers, ["</s>", "a </s> <s>b", "<unk>", "<0x0A>", ""])


@settings(max_examples=300, deadline=None)
@given(st.text(st.one_of(st.sampled_from("ab \t\n_(é漢\0😀▁"), st.characters(codec="utf-8")), max_size=60))
def test_ids_of_any_text(tokenizers, text):
    same_ids(tokenizers, [text])


def test_special_tokens(tokenizers):
    ours, theirs = tokenizers
    assert theirs.eos_token_id == theirs.pad_token_id == ours.eos and len(theirs) == ours.vocab_size
    assert theirs.decode([801, ours.eos], skip_special_tokens=True) == "def"


def test_a_fast_tokenizer_adds_and_cuts_nothing(tmp_path, random_model, exported):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import AutoTokenizer

    alphabet = {mark: i for i, mark in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    made.post_processor = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 256)])
    made.enable_truncation(3)
    (tmp_path / "tokenizer").mkdir()
    made.save(str(tmp_path / "tokenizer/tokenizer.json"))
    (tmp_path / "tokenizer/tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    folder = exported(random_model(Mamba, vocab_size=257), tokenizer=str(tmp_path / "tokenizer"))
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    same_ids((load_tokenizer(str(tmp_path / "tokenizer")), theirs), ["the   cat\n<|end|> é", ""])
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 256
