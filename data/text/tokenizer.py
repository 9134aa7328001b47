"""Tokenizers: sentencepiece models and Hugging Face fast tokenizers behind one interface.

    load_tokenizer("data/mistral_v1").encode(["def f(x):\\n    return x"])  ->  [array([801, 285, 28732, 28744, ...])]

Each file is loaded by the library that made its format, because others may read it differently: a sentencepiece model
that is opened through transformers gives other ids for runs of spaces.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.text.optional import require

DEFAULT_TOKENIZER = "data/mistral_v1"  # 32,000 pieces; it can encode every text, by falling back to bytes


class Tokenizer(ABC):
    """Maps text to ids in [0, vocab_size) and back. It adds neither BOS nor EOS."""

    vocab_size: int
    eos: int  # the id that ends every document

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int64 or int32 (tokens,). Uses one core."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids."""


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model. Raises DataError if the file is not one, or has no EOS piece."""

    def __init__(self, path: Path):
        from sentencepiece import SentencePieceProcessor

        try:
            self.model = SentencePieceProcessor(model_file=str(path))
        except RuntimeError as error:
            raise DataError(f"tokenizer: {path} is not a sentencepiece model") from error
        self.vocab_size = len(self.model)
        self.eos = self.model.eos_id()
        if self.eos < 0:
            raise DataError(f"tokenizer: {path} has no EOS piece")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self.model.encode(list(texts), out_type="numpy", num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        return self.model.decode([int(i) for i in ids])


class FastTokenizer(Tokenizer):
    """A tokenizer.json. The tokenizer_config.json beside it names EOS; DataError is raised if it does not."""

    def __init__(self, path: Path):
        tokenizers = require("tokenizers")
        try:
            self.model = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"tokenizer: {path} is not a fast tokenizer ({error})") from error
        self.model.encode_special_tokens = True  # so that </s> in a text does not end the document
        self.model.no_truncation()
        self.model.no_padding()
        vocabulary = self.model.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1  # not the length, as ids may be unused
        config = path.with_name("tokenizer_config.json")
        eos = json.loads(config.read_text()).get("eos_token") if config.is_file() else None
        eos = eos["content"] if isinstance(eos, dict) else eos
        if eos not in vocabulary:
            raise DataError(f"tokenizer: {config} must name an eos_token of the vocabulary, got {eos}")
        self.eos = vocabulary[eos]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self.model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        return self.model.decode([int(i) for i in ids], skip_special_tokens=True)


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer that `name` stands for: a file, a folder, or a repository of the Hugging Face hub."""
    path = find_tokenizer(name)
    return FastTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)


def find_tokenizer(name: str) -> Path:
    """Path of the tokenizer.json or sentencepiece model (*.model) that `name` stands for.

    Raises DataError if there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        for file in ("tokenizer.json", "tokenizer.model"):
            if (path / file).is_file():
                return path / file
        raise DataError(f"tokenizer: {name} holds neither tokenizer.json nor tokenizer.model")
    if name.count("/") != 1 or path.suffix in (".json", ".model"):
        raise DataError(f"tokenizer: {name} is not a file, a folder, or an owner/name of the Hugging Face hub")
    hub = require("huggingface_hub")
    try:
        hub.hf_hub_download(name, "tokenizer_config.json")
        return Path(hub.hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # several libraries raise errors here, each its own
        reason = " ".join(str(error).split())
        raise DataError(f"tokenizer: {name} could not be fetched from the Hugging Face hub ({reason})") from error


def tokenizer_sha256(name: str) -> str:
    """Hash of the file that `find_tokenizer` finds."""
    return sha256(find_tokenizer(name).read_bytes()).hexdigest()
