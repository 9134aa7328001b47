"""Where an epoch, a step, a rank or a resumed run begins: always with the sample that comes next."""

import os
import pickle
import signal
import subprocess
import sys
import threading

import lightning as L
import pytest
import torch

from data import FineWeb, Parity
from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError

CPU = torch.device("cpu")
TINY = (
    "--config=conf/parity.yaml",
    "--data.batch_size=4",
    "--data.train_lengths=[40,40]",
    "--data.validation_samples=8",
    "--data.test_samples=8",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.callbacks=[]",
    "--trainer.val_check_interval=1.0",
    "--trainer.log_every_n_steps=1",
)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.fixture
def make(request, random_shards):
    """Make a data module of one kind, with 4 rows a batch."""
    kinds = {
        "tasks": lambda **options: Parity(batch_size=4, **options),
        "text": lambda **options: FineWeb(str(random_shards), batch_size=4, context=16, **options),
    }
    return kinds[request.param]


both = pytest.mark.parametrize("make", ["tasks", "text"], indirect=True)


@both
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_epoch_goes_on_with_the_next_sample(make, workers, ranks, as_rank):
    """Epochs of 3, 1 and 4 steps, each an iterator of the same loader, as Lightning takes it."""
    every = make().training_batch(range(8 * 4 * ranks), CPU).inputs.split(4)
    for rank in range(ranks):
        data = as_rank(make(num_workers=workers), rank, ranks)
        loader, seen = data.train_dataloader(), []
        for steps in (3, 1, 4):
            batches = iter(loader)
            seen += [next(batches).inputs for _ in range(steps)]
            data.trainer.global_step += steps
        assert torch.equal(torch.stack(seen), torch.stack(every[rank::ranks]))


@both
def test_workers_can_be_spawned_from_a_run(make, as_rank):
    """Where Python does not fork, a worker is sent a pickle. The trainer of a run can't be pickled."""
    data = as_rank(make(), rank=1, ranks=2)
    data.trainer.lock = threading.Lock()
    spawned = pickle.loads(pickle.dumps(data.train_dataloader().dataset))
    assert data.trainer is not None and spawned.data.trainer is None
    assert torch.equal(next(iter(spawned)).inputs, data.training_batch(range(4, 8), CPU).inputs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_leave_signals_to_the_run(number):
    """They reach every process of a group, and the run ends its step before it stops."""
    batches = iter(Parity(batch_size=4, num_workers=1).train_dataloader())
    first = next(batches)
    (worker,) = batches._workers
    os.kill(worker.pid, number)
    later = [next(batches) for _ in range(20)][-1]
    assert worker.is_alive() and not torch.equal(first.inputs, later.inputs)


@pytest.mark.slow
def test_workers_do_not_keep_a_process_from_its_end():
    """A process that still holds an iterator, as a script does that looks at batches."""
    code = "import data; batches = iter(data.Parity(num_workers=2).train_dataloader()); next(batches)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class CutOffError(Exception):
    pass


class Steps(L.Callback):
    """Records the rows that each optimizer step has learned from, and stops before a step."""

    def __init__(self, stop_at=None):
        self.steps, self.pending, self.stop_at = [], [], stop_at

    def on_train_start(self, trainer, module):
        self.step = trainer.global_step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.stop_at:
            raise CutOffError

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.pending.append(batch.inputs)
        if trainer.global_step > self.step:
            self.steps.append(torch.cat(self.pending))
            self.pending, self.step = [], trainer.global_step


def steps_of(run_dir, *options, stop_at=None):
    recorded = Steps(stop_at)
    run = [*TINY, f"--run_dir={run_dir}", *(f"--{option}" for option in options)]
    if stop_at is None:
        cli = fit(run, [recorded])
        assert cli.datamodule.samples_consumed == sum(map(len, recorded.steps)) + cli.datamodule._resumed_at[0]
    else:
        with pytest.raises(CutOffError):
            fit(run, [recorded])
    return recorded.steps


def check(steps, sizes):
    """The steps hold these numbers of samples, and together the first ones, each once."""
    assert list(map(len, steps)) == sizes
    every = Parity(train_lengths=(40, 40)).training_batch(range(sum(sizes)), CPU).inputs
    assert torch.equal(torch.cat(steps), every)


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (1, 2)])
def test_a_run_of_many_epochs(workers, accumulate, tmp_path):
    options = ["trainer.limit_train_batches=4", "trainer.max_steps=10", f"data.num_workers={workers}"]
    steps = steps_of(tmp_path / "run", *options, f"trainer.accumulate_grad_batches={accumulate}")
    check(steps, [4 * accumulate] * 10)


# what a run was cut off with, and what continues it
RESUMED = {
    "other accumulation": ((1, 4, None), (4, 4, None)),
    "less accumulation": ((3, 4, None), (2, 4, None)),
    "other batch size": ((4, 4, None), (2, 6, None)),
    "in epochs": ((1, 4, 5), (2, 4, 4)),
    "in longer epochs": ((1, 4, 3), (2, 4, 8)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:You're resuming from a checkpoint")  # Lightning's
@pytest.mark.parametrize("change", RESUMED)
def test_a_resumed_run_begins_with_a_whole_step(change, tmp_path):
    steps, sizes = [], []
    for resumed, (accumulate, rows, limit) in enumerate(RESUMED[change]):
        options = [f"trainer.accumulate_grad_batches={accumulate}", f"data.batch_size={rows}", "trainer.max_steps=12"]
        options += [f"trainer.limit_train_batches={limit}"] * bool(limit) + ["resume=true"] * resumed
        stop_at = None if resumed else 7
        steps += steps_of(tmp_path / "run", "checkpoint_every=1", *options, stop_at=stop_at)
        sizes += [accumulate * rows] * (5 if resumed else 7)
    check(steps, sizes)


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:You're resuming from a checkpoint")  # Lightning's
def test_a_checkpoint_of_an_exception_resumes_with_a_whole_step(tmp_path, monkeypatch):
    """Its counts hold the batch that raised the exception, which no step has learned from."""
    last = tmp_path / "run/checkpoints/last.ckpt"
    monkeypatch.setattr(Steps, "on_exception", lambda _, trainer, *args: trainer.save_checkpoint(last))
    steps = steps_of(tmp_path / "run", "trainer.max_steps=12", stop_at=7)
    options = ["trainer.max_steps=12", "trainer.accumulate_grad_batches=2", "resume=true"]
    steps += steps_of(tmp_path / "run", *options, stop_at=9)  # which saves the counts that were restored
    steps += steps_of(tmp_path / "run", *options)
    check(steps, [4] * 7 + [8] * 5)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_a_finished_run_goes_on_for_more_epochs(tmp_path):
    options = ["trainer.limit_train_batches=4", "trainer.max_steps=100"]
    steps = steps_of(tmp_path / "run", *options, "trainer.max_epochs=2")
    steps += steps_of(tmp_path / "run", *options, "trainer.max_epochs=3", "resume=true")
    check(steps, [4] * 12)


SCHEDULER = "lightning.pytorch.callbacks.GradientAccumulationScheduler"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["trainer.limit_train_batches=5", "trainer.accumulate_grad_batches=4"],
            "trainer.limit_train_batches: must be a multiple of trainer.accumulate_grad_batches (4)",
        ),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches: must be at least 1, got 0"),
        (["trainer.limit_train_batches=0"], "trainer.limit_train_batches: must be at least 1, got 0"),
        (["trainer.val_check_interval=0"], "trainer.val_check_interval: must be at least 1, got 0"),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch: must be at least 1, got 0"),
        (["trainer.log_every_n_steps=0"], "trainer.log_every_n_steps: must be at least 1, got 0"),
        (["trainer.overfit_batches=2"], "trainer.overfit_batches: must be 0, as training samples do not repeat, got 2"),
        (
            [f"trainer.callbacks={{class_path: {SCHEDULER}, init_args: {{scheduling: {{1: 2}}}}}}"],
            "trainer.callbacks: GradientAccumulationScheduler would change the samples of a step",
        ),
    ],
)
def test_what_would_break_a_step_is_refused(options, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        fit([*TINY, f"--run_dir={tmp_path}/run", *(f"--{option}" for option in options)])
    assert message in str(error.value) and "\n" not in str(error.value)
