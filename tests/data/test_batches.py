"""The batches of every task and of text stay what they are: seeds in papers and in checkpoints depend on it.

The hashes were computed before the code was first reorganized. A change of them is a change of all results.
"""

from hashlib import sha256
from itertools import islice

import pytest
import torch

from data import (
    CycleNavigation,
    EvenPairs,
    FineWeb,
    GroupWordProblem,
    ModularArithmetic,
    ModularArithmeticBrackets,
    Parity,
    StateTrackingText,
)

TASKS = {
    "Parity": (Parity, {}),
    "Parity, every prefix": (Parity, {"supervision": "every_prefix"}),
    "EvenPairs": (EvenPairs, {}),
    "CycleNavigation": (CycleNavigation, {}),
    "ModularArithmetic": (ModularArithmetic, {}),
    "ModularArithmeticBrackets": (ModularArithmeticBrackets, {}),
    "ModularArithmeticBrackets, multiplication": (ModularArithmeticBrackets, {"multiplication": True}),
    "GroupWordProblem, S5": (GroupWordProblem, {"group": "S5"}),
    "GroupWordProblem, swaps": (GroupWordProblem, {"group": "S5", "alphabet": "swaps", "tokens_per_element": 4}),
    "GroupWordProblem, Z60": (GroupWordProblem, {"group": "Z60", "evaluation_labels": "every_token"}),
}
# name -> training with seed 0, with seed 7, with seed 7 on rank 1 of 2 with 2 workers; validation; evaluation
HASHES: dict[str, tuple[str, ...]] = {
    "Parity": ("827b6d7bc17f", "2fdc0789ecaa", "567414fdcf44", "17b06fc97c8f", "d66fa4377b47"),
    "Parity, every prefix": ("38a3c148ce3c", "e839bd1dec0b", "4b5750c48e6f", "17b06fc97c8f", "d66fa4377b47"),
    "EvenPairs": ("04074f3cbb22", "a5f18aa3c29d", "823c6b1756c8", "6253d43abaee", "0f443cac3fbd"),
    "CycleNavigation": ("4830cd909f5f", "2551a3f50cc8", "25eceda86c9e", "a6a6bc23a29d", "56894935f4aa"),
    "ModularArithmetic": ("c0b7e626a0c4", "38b60497c1f7", "7efddd2f403b", "324ca33bfafd", "43f0c321530f"),
    "ModularArithmeticBrackets": ("6cd252258c69", "5cb53d4d5cf3", "32918e9415d1", "82de89f08838", "cc596df8ae8e"),
    "ModularArithmeticBrackets, multiplication": (
        "c0d801cc8c6c",
        "b7e5ad36763a",
        "6f5de1ac3505",
        "8a0c8411a2ae",
        "d8b4ffee2304",
    ),
    "GroupWordProblem, S5": ("29029ca9008f", "4fa3892e6be0", "7a92c3a392ba", "a7f857bb242d", "5c6f6958ccb0"),
    "GroupWordProblem, swaps": ("98b7b0c835ac", "057b95d3b4d0", "66c5b02666c6", "9b7279edd06c", "43df929964a8"),
    "GroupWordProblem, Z60": ("366383366416", "8c9eb1a6164d", "898cfc0220c0", "797f4b59783e", "7c549237e417"),
    "StateTrackingText": ("78b25116388a", "81d42f68b297", "687125a40efe", "ec2cc0c10cb3", "d8d5159503b4"),
    "FineWeb": ("2c8df52ddd44", "d6091413732f", "51cd1e98145b", "f8e1b3251a65"),
}


def digest(batches, count):
    """Hash of the shapes, inputs and labels of the first `count` batches."""
    content = sha256()
    for batch in islice(batches, count):
        for field in batch:
            assert field.dtype == torch.int64
            content.update(repr(tuple(field.shape)).encode() + field.numpy().tobytes())
    return content.hexdigest()[:12]


def training(make, batches, as_rank):
    """Hashes of the first training batches, as a data loader serves them."""
    whole = [make(seed=seed, num_workers=0) for seed in (0, 7)]
    share = as_rank(make(seed=7, num_workers=2), rank=1, ranks=2)
    return tuple(digest(data.train_dataloader(), batches) for data in (*whole, share))


@pytest.mark.parametrize("name", TASKS)
def test_batches_of_a_task(name, as_rank):
    task, options = TASKS[name]

    def make(**kwargs):
        return task(batch_size=32, validation_samples=32, **options, **kwargs)

    validation = digest(make().val_dataloader(), 1)
    evaluation = digest(make().evaluation_batches(40, 256, samples=64), 1)
    assert (*training(make, batches=4, as_rank=as_rank), validation, evaluation) == HASHES[name]


def test_batches_of_state_tracking_in_text(as_rank, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)

    def make(**kwargs):
        return StateTrackingText(batch_size=4, context=128, validation_samples=32, **kwargs)

    validation = digest(make().val_dataloader(), 1)
    evaluation = digest(make().evaluation_batches(17, 64, samples=32), 1)
    assert (*training(make, batches=3, as_rank=as_rank), validation, evaluation) == HASHES["StateTrackingText"]


def test_batches_of_text(as_rank, write_shards, tmp_path, monkeypatch, pytestconfig):
    """38 rows; 6 batches of 8 go on into the second epoch."""
    monkeypatch.chdir(pytestconfig.rootpath)  # the tokenizer's path is relative to it
    documents = [[3 + (i * i + 31 * j) % 1000 for j in range(20 + i)] for i in range(30)]
    shards = write_shards(tmp_path / "shards", [documents[:11], documents[11:24]], [documents[24:]])

    def make(**kwargs):
        return FineWeb(str(shards), batch_size=8, context=20, **kwargs)

    validation = digest(make().val_dataloader(), 1)
    assert (*training(make, batches=6, as_rank=as_rank), validation) == HASHES["FineWeb"]
