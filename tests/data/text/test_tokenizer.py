import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from data import DataError
from data.text.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[3]
MISTRAL = load_tokenizer(str(ROOT / "data/mistral_v1"))
PIECES = SentencePieceProcessor(model_file=str(ROOT / "data/mistral_v1/tokenizer.model"))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("def f(x):\n    return x", [801, 285, 28732, 28744, 1329, 13, 2287, 604, 1318]),
        ("a  b", [264, 28705, 287]),
        ("   ", [260]),
        ("a" + 17 * " " + "b", [264, 359, 287]),
        ("x\t\ty\n\n", [1318, 3 + 9, 3 + 9, 28724, 3 + 10, 3 + 10]),  # a byte without a piece is 3 + its value
        ("</s>", [1867, 28713, 28767]),  # not EOS
    ],
)
def test_ids_of_the_default_tokenizer(text, ids):
    assert MISTRAL.encode([text])[0].tolist() == ids


def test_the_default_tokenizer_is_the_one_of_32000_pieces():
    assert (MISTRAL.vocab_size, MISTRAL.eos) == (32000, 2)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \t\n_(é漢\0😀"), max_size=30), max_size=4))
def test_texts_come_back_and_do_not_depend_on_their_batch(texts):
    encoded = MISTRAL.encode(texts)
    assert len(encoded) == len(texts)
    for ids, text in zip(encoded, texts, strict=True):
        assert MISTRAL.decode(ids) == text
        assert [PIECES.id_to_piece(i) for i in ids.tolist()] == PIECES.encode_as_pieces(text)


@pytest.fixture
def fast_tokenizer(tmp_path):
    """A folder as the hub has it: byte-level BPE and an added EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(["the cat", "the hat"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    model.add_special_tokens(["<|end|>"])
    model.enable_truncation(3)
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|end|>"}}))
    return tmp_path


def test_fast_tokenizers(fast_tokenizer):
    ours = load_tokenizer(str(fast_tokenizer))
    pieces = {
        i: piece for piece, i in json.loads((fast_tokenizer / "tokenizer.json").read_text())["model"]["vocab"].items()
    }
    assert ours.eos == len(pieces) and ours.vocab_size == len(pieces) + 1
    text = "the   cat\n<|end|> é"
    (ids,) = ours.encode([text])
    assert "".join(pieces[i] for i in ids.tolist()) == "theĠĠĠcatĊ<|end|>ĠÃ©"  # a text that spells EOS has none
    assert ours.decode(ids) == text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither tokenizer.json nor tokenizer.model"),
        ({"tokenizer.model": "{}"}, "is not a sentencepiece model"),
        ({"tokenizer.json": "{}"}, "is not a fast tokenizer"),
    ],
)
def test_folders_that_hold_no_tokenizer(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(str(tmp_path))


def test_a_fast_tokenizer_must_name_its_eos(fast_tokenizer):
    (fast_tokenizer / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match="must name an eos_token"):
        load_tokenizer(str(fast_tokenizer))


def test_a_name_that_is_nothing():
    with pytest.raises(DataError, match="is not a file, a folder, or an owner/name"):
        load_tokenizer("nothing.model")
