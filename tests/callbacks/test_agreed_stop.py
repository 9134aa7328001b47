"""Signals to one rank or all: the ranks stop after the same step, with a checkpoint, within seconds."""

import os
import signal
import threading
import time
import timeit
from datetime import timedelta
from pathlib import Path

import pytest
from ranks import environments, free_port

from callbacks.agreed_stop import AgreedStop
from lrnn.runtime.checkpoint import read_metadata

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=conf/parity.yaml",
    "--data.batch_size=4",
    "--data.validation_samples=8",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.callbacks=[]",
    "--trainer.max_steps=1000000",
    "--trainer.val_check_interval=1000000",
    "--checkpoint_every=20",
)


@pytest.fixture
def ranks_in_threads(monkeypatch):
    """AgreedStop of each of n ranks, all in this process."""
    stops = []

    def make(n):
        port = free_port()
        from torch.distributed import PrefixStore, TCPStore

        server = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        monkeypatch.setattr(
            AgreedStop,
            "_connect",
            lambda self: PrefixStore("stop", TCPStore("127.0.0.1", port, is_master=False)),
        )
        stops.extend([AgreedStop(rank, n) for rank in range(n)])
        return stops, server

    yield make
    for stop in reversed(stops):
        stop.close()


def test_ranks_that_are_at_different_steps_stop_after_the_same(ranks_in_threads):
    """One goes on until a collective would wait for the others, as a GPU's queue lets it; all stop where it does."""
    stops, _server = ranks_in_threads(3)
    ahead, ended = (0, 2, 5), {}

    def train(stop, lead, slowest):
        stop.open(0)
        for step in range(1, 10000):
            while step > min(slowest) + 1 + lead:
                time.sleep(0.001)
            time.sleep(0.002)
            if stop.after_step(step) is not None:
                ended[stop.rank] = step
                return
            slowest[stop.rank] = step

    done = [0, 0, 0]
    threads = [threading.Thread(target=train, args=(s, lead, done)) for s, lead in zip(stops, ahead, strict=True)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stops[1]._signalled(signal.SIGTERM)
    for thread in threads:
        thread.join(20)
    assert len(ended) == 3 and len(set(ended.values())) == 1, ended
    assert [stop._signal for stop in stops] == [signal.SIGTERM] * 3


def test_a_step_that_ends_while_the_signal_is_passed_on(ranks_in_threads, monkeypatch):
    """Waiting for the steps of all ranks keeps the connection, over which this rank must have said its own before."""

    class SlowStore:
        def __init__(self, store):
            self.store = store

        def __getattr__(self, name):
            return getattr(self.store, name)

        def set(self, key, value):
            time.sleep(0.1)
            self.store.set(key, value)

    monkeypatch.setattr("callbacks.agreed_stop.ANSWER", timedelta(seconds=5))
    stops, _server = ranks_in_threads(2)
    for stop in stops:
        stop.open(0)
    stops[0]._store = SlowStore(stops[0]._store)
    signalled = threading.Thread(target=stops[0]._signalled, args=(signal.SIGTERM,))
    signalled.start()
    time.sleep(0.05)
    assert [stop.after_step(1) for stop in stops] == [signal.SIGTERM] * 2
    signalled.join()


def test_a_step_costs_less_than_50_microseconds(ranks_in_threads):
    (stop, _), _server = ranks_in_threads(2)
    stop.open(0)
    assert min(timeit.repeat(lambda: stop.after_step(1), number=1000, repeat=5)) / 1000 < 50e-6


def start(start_fit, n, *arguments):
    """Start the processes that torchrun starts, in the environment that it gives them."""
    devices = [f"--trainer.devices={n}"] if n > 1 else []
    return [start_fit(*TINY, *arguments, *devices, **environment) for environment in environments(n)]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("ranks", "strategy", "number", "hit", "status"),
    [
        (1, "auto", signal.SIGTERM, [0], 143),
        (2, "ddp", signal.SIGINT, [0, 1], 1),
        (2, "ddp", signal.SIGTERM, [1], 143),
        (2, "fsdp2", signal.SIGUSR1, [0, 1], 138),
        (4, "ddp", signal.SIGTERM, [2], 143),
    ],
)
def test_all_ranks_save_and_stop(ranks, strategy, number, hit, status, start_fit, tmp_path):
    options = [f"--run_dir={tmp_path}/run", f"--trainer.strategy={strategy}", "--trainer.accumulate_grad_batches=2"]
    processes = start(start_fit, ranks, *options)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    while not checkpoint.exists():
        assert [process.poll() for process in processes] == [None] * ranks
        time.sleep(0.05)
    since = time.monotonic()
    for rank in hit:
        processes[rank].send_signal(number)
    assert [process.wait() for process in processes] == [status] * ranks
    assert time.monotonic() - since < 30
    saved = read_metadata(checkpoint)
    assert saved["global_step"] >= 20
    assert saved["Parity"]["samples_consumed"] == saved["global_step"] * 4 * 2 * ranks


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_a_second_signal_ends_a_run_that_can_not_stop(start_fit, tmp_path):
    """The other rank is stopped, so that this one waits for it."""
    processes = start(start_fit, 2, f"--run_dir={tmp_path}/run", "--trainer.strategy=ddp")
    while not (tmp_path / "run/checkpoints/last.ckpt").exists():
        assert [process.poll() for process in processes] == [None] * 2
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    processes[0].send_signal(signal.SIGTERM)
    time.sleep(0.3)
    processes[0].send_signal(signal.SIGTERM)  # the same: a launcher passes on what the group got
    time.sleep(1.5)
    assert processes[0].poll() is None
    processes[0].send_signal(signal.SIGTERM)
    assert processes[0].wait() == 143
    os.killpg(processes[1].pid, signal.SIGKILL)
    processes[1].wait()
