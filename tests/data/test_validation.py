"""The validation set counts every row once, for any number of processes."""

import pytest
from ranks import environments
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data import FineWeb, Parity
from data.resumable import IGNORE


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.mark.parametrize("kind", ["tasks", "text"])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_ranks_share_all_rows_in_equally_many_batches(kind, rows, random_shards, as_rank):
    def shares(ranks):
        for rank in range(ranks):
            if kind == "tasks":
                data = Parity(validation_samples=rows)
            else:
                data = FineWeb(str(random_shards), batch_size=3, context=16, validation_rows=rows)
            yield list(as_rank(data, rank, ranks).val_dataloader())

    def scored(batch):
        pairs = zip(batch.inputs.tolist(), batch.labels.tolist(), strict=True)
        return [(row, labels) for row, labels in pairs if set(labels) != {IGNORE}]

    (whole,) = shares(1)
    everything = [pair for batch in whole for pair in scored(batch)]
    assert len(everything) == sum(len(batch.inputs) for batch in whole) == rows
    for ranks in (2, 3, 4):
        by_rank = list(shares(ranks))
        assert all(len({batch.inputs.shape for batch in turn}) == 1 for turn in zip(*by_rank, strict=True))
        assert sorted(pair for share in by_rank for batch in share for pair in scored(batch)) == sorted(everything)


TINY = [f"--trainer.{key}" for key in ("enable_progress_bar=false", "enable_model_summary=false", "callbacks=[]")]
TINY += [f"--trainer.{key}" for key in ("max_steps=2", "val_check_interval=2", "accelerator=cpu", "max_epochs=-1")]
TINY += ["--model=lrnn.models.Diagonal", "--model.width=8", "--model.layers=1"]


def start_ranks(start_fit, ranks, *arguments):
    """Start the processes that torchrun would start."""
    arguments = (*arguments, f"--trainer.devices={ranks}", *["--trainer.strategy=ddp"] * (ranks > 1))
    return [start_fit(*arguments, **environment) for environment in environments(ranks)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tasks", "text"])
def test_the_loss_is_the_same_for_any_number_of_processes(kind, start_fit, random_shards, tmp_path):
    """Sets of 1 row, which leaves a rank without a label, and of 7, of which 3 ranks hold 3, 2 and 2."""
    data = ["--data=data.Parity", "--data.supervision=every_prefix", "--data.validation_samples"]
    if kind == "text":
        data = ["--data=data.FineWeb", f"--data.shards={random_shards}", "--data.context=16", "--data.num_workers=0"]
        data.append("--data.validation_rows")
    for rows, processes in ((1, 2), (7, 3)):
        values = []
        for ranks in (1, processes):
            run = tmp_path / f"{rows} of {ranks}"
            options = [*TINY, *data[:-1], f"{data[-1]}={rows}", "--data.batch_size=2"]
            options += ["--model.learning_rate=1e-30", "--schedule.min_lr=0"]
            assert {p.wait() for p in start_ranks(start_fit, ranks, *options, f"--run_dir={run}")} == {0}
            events = EventAccumulator(str(run))
            events.Reload()
            values.append([events.Scalars(name)[-1].value for name in ("val/loss", "val/accuracy")])
        assert values[1] == pytest.approx(values[0], rel=1e-5)
