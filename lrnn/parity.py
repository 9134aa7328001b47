"""The paper's parity experiment on a laptop: python -m lrnn.parity

{DeltaNet, Mamba} x {[0, 1], [-1, 1]} x seeds, several runs side by side, each the same as
`python -m lrnn.fit --config conf/parity*.yaml`. Finished runs are kept: after an interruption the same
command goes on where it stopped.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import ArgumentError, auto_cli
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from callbacks import TrainingDivergedError
from lrnn.fit import fit, one_line
from lrnn.parity_report import write_report
from lrnn.runtime.errors import ConfigError

RECIPES = {"DeltaNet": "conf/parity.yaml", "Mamba": "conf/parity_mamba.yaml"}
LONGEST_TRAINED = 40


@dataclass(frozen=True)
class Run:
    """One model to train; `root` is the folder of the experiment."""

    architecture: str
    eigenvalue_range: tuple[int, int]
    seed: int
    root: str
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        low, high = self.eigenvalue_range
        return f"{self.architecture} [{low}, {high}] seed {self.seed}"

    @property
    def folder(self) -> Path:
        low, high = self.eigenvalue_range
        return Path(self.root, f"{self.architecture.lower()}_{low}_{high}_seed{self.seed}")

    @property
    def recipe(self) -> list[str]:
        """What decides the outcome: the configuration file and the options."""
        return [*Path(RECIPES[self.architecture]).read_text().splitlines(), *self.options]

    def finished(self) -> dict[str, Any] | None:
        """The record of this run, if it is there."""
        path = self.folder / "record.json"
        if not path.is_file():
            return None
        record = json.loads(path.read_text())
        if record.pop("recipe") != self.recipe:
            raise ConfigError(
                f"run_dir: {self.folder} was trained by another recipe; delete it or choose another run_dir"
            )
        return record

    def arguments(self) -> list[str]:
        arguments = [
            f"--config={RECIPES[self.architecture]}",
            f"--model.eigenvalue_range={list(self.eigenvalue_range)}",
            f"--seed_everything={self.seed}",
            f"--run_dir={self.folder}",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            *self.options,
        ]
        if Path(self.folder, "checkpoints", "last.ckpt").is_file():
            return [*arguments, "--resume=true"]
        shutil.rmtree(self.folder, ignore_errors=True)  # cut off before its first checkpoint
        return arguments


class _Progress(L.Callback):
    """Tells the parent how far this run is."""

    def __init__(self, name: str):
        self.name = name

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step % 10 == 0:
            _queue.put((self.name, trainer.global_step, trainer.max_steps))


_queue: SimpleQueue
_stopping: Event


def _start_worker(queue: SimpleQueue, stopping: Event) -> None:
    global _queue, _stopping
    _queue, _stopping = queue, stopping


def _train(run: Run) -> dict[str, Any]:
    """One run in a worker process; what it prints goes to a log."""
    if _stopping.is_set():  # the pool hands out a run or two in advance
        raise KeyboardInterrupt
    start = time.perf_counter()
    with _output_to(Path(run.root, "logs", f"{run.folder.name}.txt")):
        fit(run.arguments(), [_Progress(run.name)])
    results = json.loads((run.folder / "length_generalization.json").read_text())
    record = {
        "architecture": run.architecture,
        "eigenvalue_range": list(run.eigenvalue_range),
        "seed": run.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "scaled_accuracy": results["scaled_accuracy"],
        "scaled_accuracy_at": results["scaled_accuracy_at"],
    }
    (run.folder / "record.json").write_text(json.dumps({**record, "recipe": run.recipe}, indent=1) + "\n")
    return record


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = os.dup(1), os.dup(2)
    sys.stdout.flush()
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


def parity(
    run_dir: str = "runs/parity",
    workers: int = os.cpu_count() or 1,
    seeds: Sequence[int] = (0, 1, 2),
    architectures: Sequence[Literal["DeltaNet", "Mamba"]] = ("DeltaNet", "Mamba"),
    ranges: Sequence[tuple[int, int]] = ((0, 1), (-1, 1)),
    options: Sequence[str] = (),
) -> None:
    """Train DeltaNet and Mamba with either eigenvalue range on parity; write the table and the picture.

    Args:
        run_dir: folder of all runs; table.md, results.json and length_generalization.png are written there.
        workers: runs side by side, each on one core.
        seeds: of the initialisation and the training data.
        architectures: DeltaNet, Mamba or both.
        ranges: eigenvalue ranges, [0, 1], [-1, 1] or both.
        options: further options for every run, as `python -m lrnn.fit` takes them.
    """
    if workers < 1:
        raise ConfigError(f"workers: must be at least 1, got {workers}")
    runs = [
        Run(architecture, eigenvalue_range, seed, run_dir, tuple(options))
        for architecture in architectures
        for eigenvalue_range in ranges
        for seed in seeds
    ]
    console = Console()
    start = time.perf_counter()
    records = {run: record for run in runs if (record := run.finished())}
    if records:
        console.print(f"{len(records)} of {len(runs)} runs are kept from before; delete {run_dir} to train them afresh")
    _train_all([run for run in runs if run not in records], workers, records, console)
    write_report([records[run] for run in runs], LONGEST_TRAINED, Path(run_dir), console)
    console.print(f"{len(runs)} runs, {time.perf_counter() - start:.0f} s")


def _train_all(runs: list[Run], workers: int, records: dict[Run, dict[str, Any]], console: Console) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # one core a run; the workers inherit it
    context = multiprocessing.get_context("spawn")
    queue, stopping = context.SimpleQueue(), context.Event()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        ProcessPoolExecutor(workers, context, _start_worker, (queue, stopping)) as pool,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        everything = progress.add_task("all runs", total=len(runs))
        bars: dict[str, TaskID] = {}
        # Ctrl-C reaches the workers too: only a run in training hears it, and leaves a checkpoint
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        pending: dict[Future, Run] = {pool.submit(_train, run): run for run in runs}
        signal.signal(signal.SIGINT, handler)
        try:
            while pending:
                done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    name, step, steps = queue.get()
                    if name not in bars:
                        bars[name] = progress.add_task(name, total=steps)
                    progress.update(bars[name], completed=step)
                for future in done:
                    run = pending.pop(future)
                    records[run] = record = future.result()
                    if run.name in bars:
                        progress.remove_task(bars.pop(run.name))
                    progress.advance(everything)
                    console.print(f"{run.name}: {record['scaled_accuracy']:.4f}, {record['seconds']:.0f} s")
        except BaseException:
            console.print("stopping: a run in training leaves a checkpoint, one in evaluation ends first")
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def main() -> None:
    try:
        auto_cli(parity, exit_on_error=False, prog="python -m lrnn.parity")
    except (ArgumentError, ConfigError, TrainingDivergedError) as error:
        sys.exit(f"error: {one_line(str(error))}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it stopped")


if __name__ == "__main__":
    main()
