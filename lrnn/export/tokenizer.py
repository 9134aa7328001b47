"""Write our tokenizers as the tokenizer.json that transformers loads, with the same ids.

A sentencepiece BPE model becomes a BPE whose merges are in the order in which sentencepiece makes them: by the score of
the merged piece. All runs of spaces have the same score; there a run grows from its left end, so the merge with the
longer left part comes first. The file that is written is then compared with ours on `PROBES`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from data.text.optional import require
from data.text.tokenizer import FastTokenizer, SentencePieceTokenizer, Tokenizer, find_tokenizer
from lrnn.export.folder import write_json
from lrnn.runtime.errors import ConfigError

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how sentencepiece writes a space
PROBES = (
    *(f"a{count * ' '}b{count * ' '}" for count in range(40)),
    *(count * " " + "def f(x):\n" + count * "\t" + "return x  # y\r\n\n\n" for count in range(20)),
    "The quick brown fox, 1234567890 times; it's 3.14 == x**2 -> {'key': [None]}",
    "\ufb01 \u00b2 \u212b \uff46\uff55\uff4c\uff4c e\u0301 \u200b\u00a0\ufeff \0\x7f",  # a normalizer changes it
    "漢字かな 한국어 العربية हिन्दी 😀👩👩👧",
    f"</s><s><unk> [INST] <0x0A> <|endoftext|> {SPACE} {SPACE}{SPACE}a",
    "-" * 100 + "=" * 33 + "0" * 50 + "aaaaaaaaaaaaaaaaaaaaa",
)


def write_tokenizer(name: str, tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, and the licence in the tokenizer's folder.

    Raises:
        ConfigError: if the written tokenizer gives other ids than ours for one of `PROBES`.
    """
    path = find_tokenizer(name)
    if isinstance(tokenizer, SentencePieceTokenizer):
        content = from_sentencepiece(tokenizer)
    else:  # unchanged, except that nothing is added to a text or cut off
        content = json.loads(path.read_text()) | {"post_processor": None, "truncation": None, "padding": None}
    eos = require("tokenizers").Tokenizer.from_str(json.dumps(content)).id_to_token(tokenizer.eos)
    write_json(folder / "tokenizer.json", content)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "pad_token": eos,
            "padding_side": "left",
            "split_special_tokens": True,  # so that a text which spells </s> does not end its document
            "clean_up_tokenization_spaces": False,
        },
    )
    written = FastTokenizer(folder / "tokenizer.json")
    for probe, ours, theirs in zip(PROBES, tokenizer.encode(PROBES), written.encode(PROBES), strict=True):
        if ours.tolist() != theirs.tolist():
            raise ConfigError(f"tokenizer: {name} can't be exported, a tokenizer.json gives other ids for {probe!r}")
    if (path.parent / "LICENSE").is_file():
        shutil.copy(path.parent / "LICENSE", folder / "TOKENIZER_LICENSE")


def from_sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """Return the content of tokenizer.json for a sentencepiece BPE model."""
    model = tokenizer.model
    pieces = [model.id_to_piece(i) for i in range(len(model))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for i, piece in enumerate(pieces):
        if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i)):
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in vocabulary and right in vocabulary:
                    merges.append(((-model.get_score(i), -cut, i), [left, right]))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, piece in enumerate(pieces)
            if model.is_control(i) or model.is_unknown(i)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": pieces[model.unk_id()],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [pair for _, pair in sorted(merges, key=lambda merge: merge[0])],
        },
    }
