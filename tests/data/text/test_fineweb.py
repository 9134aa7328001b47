import sys
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loops.progress import _BatchProgress

from data import DataError, FineWeb
from data.text import speed

CONTEXT = 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def open_rows(folder, batch_size=8, ranks=1, rank=0, step=0, accumulate=1, **options):
    data = FineWeb(str(folder), batch_size, **{"context": CONTEXT, "num_workers": 0, "seed": 3, **options})
    data.trainer = SimpleNamespace(
        world_size=ranks,
        global_rank=rank,
        global_step=step,
        accumulate_grad_batches=accumulate,
        limit_train_batches=1.0,
        overfit_batches=0,
        callbacks=[],
        strategy=SimpleNamespace(root_device=CPU),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=_BatchProgress())),
    )
    return data


def rows_of(batches: Iterable, n):
    return [row for batch in islice(batches, n) for row in batch.inputs.tolist()]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(1, 20),
    st.sampled_from([100, 100_000]),
)
def test_an_epoch_holds_every_token_once(write_shards, lengths, context, vocab_size):
    """As an input, and but for the first as a label, up to a tail shorter than a row; document lengths a shard."""
    draw = np.random.default_rng(0)
    shards = [[draw.integers(3, vocab_size, n).tolist() for n in shard] for shard in lengths]
    tokens = [token for shard in shards for document in shard for token in (*document, 2)]
    rows = (len(tokens) - 1) // context
    if rows == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        written = write_shards(Path(folder, "shards"), shards, [[[3] * context]], vocab_size)
        data = open_rows(written, batch_size=1, context=context)
        assert data.rows == rows and data.vocab_size == vocab_size
        for epoch in (0, 1):
            batches = [
                data.training_batch(range(first, first + 1), CPU) for first in range(epoch * rows, (epoch + 1) * rows)
            ]
            order = [data._order(epoch)(i) for i in range(rows)]
            assert sorted(order) == list(range(rows))
            inputs, labels = [None] * rows, [None] * rows
            for row, batch in zip(order, batches, strict=True):
                inputs[row], labels[row] = batch.inputs[0], batch.labels[0]
            assert torch.cat(inputs).tolist() == tokens[: rows * context]
            assert torch.cat(labels).tolist() == tokens[1 : rows * context + 1]


def test_one_global_order_for_all_ranks_and_workers(random_shards):
    """Over more than an epoch of 5,130 rows."""
    steps = 700
    whole = rows_of(open_rows(random_shards).train_dataloader(), steps)
    assert len({tuple(row) for row in whole}) == open_rows(random_shards).rows < len(whole)
    for ranks in (1, 2, 4):
        for workers in (0, 2):
            size = 8 // ranks
            loaders = [
                iter(open_rows(random_shards, size, ranks, rank, num_workers=workers).train_dataloader())
                for rank in range(ranks)
            ]
            seen = []
            for _ in range(steps if workers == 0 else 20):
                for loader in loaders:
                    seen += next(loader).inputs.tolist()
            assert seen == whole[: len(seen)]


@pytest.mark.parametrize(("ranks", "workers", "accumulate"), [(1, 0, 1), (2, 2, 1), (1, 2, 2)])
def test_resume_goes_on_with_the_next_row(random_shards, ranks, workers, accumulate):
    """Saved after 7 steps of 8 rows by one process, continued by others, in other batches."""
    rows = rows_of(open_rows(random_shards).train_dataloader(), 15)
    before = open_rows(random_shards, step=7)
    size = 8 // ranks // accumulate
    loaders = []
    for rank in range(ranks):
        data = open_rows(random_shards, size, ranks, rank, step=7, accumulate=accumulate, num_workers=workers)
        data.load_state_dict(before.state_dict())
        assert data.samples_consumed == 56
        loaders.append(iter(data.train_dataloader()))
    seen = [row for _ in range(8 * accumulate) for loader in loaders for row in next(loader).inputs.tolist()]
    assert seen == rows[56:120]


def test_seeds_and_epochs_have_orders_of_their_own(random_shards):
    data = open_rows(random_shards)
    orders = [open_rows(random_shards, seed=seed).training_batch(range(100), CPU).inputs for seed in (3, 4)]
    orders.append(data.training_batch(range(data.rows, data.rows + 100), CPU).inputs)
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order == other).all(1).sum() < 5


def test_validation_rows_are_the_first_ones(random_shards):
    tokens = np.fromfile(random_shards / "validation-00000.bin", np.uint16)
    data = open_rows(random_shards, 3, validation_rows=40)
    rows = [row for batch in data.val_dataloader() for row in batch.inputs.tolist()]
    assert [token for row in rows for token in row] == tokens[: 40 * CONTEXT].tolist()


def test_a_checkpoint_of_other_shards_or_another_context_is_refused(random_shards, write_shards, tmp_path):
    saved = open_rows(random_shards).state_dict()
    other = write_shards(tmp_path / "other", [[[5] * 200]], [[[5] * 200]])
    with pytest.raises(ValueError, match=r"data.shards: the checkpoint was trained on other shards"):
        open_rows(other).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"data.context: the checkpoint was trained with 16, got 8"):
        open_rows(random_shards, context=8).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"data.seed: the checkpoint was trained with 3, got 5"):
        open_rows(random_shards, seed=5).load_state_dict(saved)


def test_more_ranks_than_rows_are_refused(random_shards):
    data = open_rows(random_shards, batch_size=16, ranks=4, context=2048)
    with pytest.raises(DataError, match=r"data.batch_size: must be at most 10 with 4 ranks, .* has 40 .*, got 16"):
        data.setup("fit")
    with pytest.raises(DataError, match=r"data.context: the validation split of .* has no row of 20000 \+ 1 tokens"):
        open_rows(random_shards, batch_size=1, context=20000)
    open_rows(random_shards, batch_size=1, ranks=8, context=2048).setup("fit")  # 3 validation rows, which are padded


@pytest.mark.parametrize(("option", "least"), [("--seconds=0", "above 0"), ("--context=0", "at least 1")])
def test_the_speed_of_reading_ends_with_one_line(option, least, random_shards, monkeypatch):
    options = [f"--shards={random_shards}", "--source=README.md", "--seconds=1e-3", option]
    monkeypatch.setattr(sys, "argv", ["data.text.speed", *options])
    with pytest.raises(SystemExit, match=rf"^error: [^\n]*must be {least}, got 0"):
        speed.main()


@pytest.mark.parametrize("option", ["batch_size", "context", "validation_rows"])
def test_bad_options_are_named(random_shards, option):
    with pytest.raises(ValueError, match=f"{option}: must be at least 1, got 0"):
        open_rows(random_shards, **{option: 0})
