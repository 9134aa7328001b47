import os
from pathlib import Path

import numpy as np
import pytest
import torch

from data.text.shards import Manifest, ShardWriter, token_dtype
from data.text.tokenizer import tokenizer_sha256

ROOT = Path(__file__).parent.parent

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it then runs kernels on the CPU


@pytest.fixture(autouse=True)
def _fixed_seed_and_one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def write_shards():
    """Write (folder, train=[[document, ...], ...], validation=..., vocab_size) as shards; documents end in EOS, 2."""

    def write(folder, train, validation, vocab_size=32000):
        folder.mkdir(parents=True)
        splits = {}
        for split, shards in (("train", train), ("validation", validation)):
            splits[split] = ()
            for i, documents in enumerate(shards):
                writer = ShardWriter(folder / f"{split}-{i:05}.bin")
                for document in documents:
                    writer.write(np.array([*document, 2], token_dtype(vocab_size)), 1)
                splits[split] += writer.close()
        manifest = Manifest(
            tokenizer="data/mistral_v1",
            tokenizer_sha256=tokenizer_sha256(str(ROOT / "data/mistral_v1")),
            vocab_size=vocab_size,
            eos=2,
            dtype=token_dtype(vocab_size).name,
            settings={},
            skipped=0,
            splits=splits,
        )
        manifest.save(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def random_shards(write_shards, tmp_path_factory):
    """40 rows of 2,048 + 1 tokens to train on, 4 to validate."""
    draw = np.random.default_rng(0).integers
    documents = [draw(3, 32000, 1000) for _ in range(90)]
    return write_shards(
        tmp_path_factory.mktemp("data") / "shards", [documents[:50], documents[50:82]], [documents[82:]]
    )
