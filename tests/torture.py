"""Interrupt training at random moments, resume it, and compare it with runs that nothing interrupted: make torture

A trial trains a tiny model with 1, 2 or 4 processes, on a task or on text, with 1 or 4 batches a step. At a random
batch SIGINT, SIGTERM or SIGKILL hits one rank or all of them, and the run is resumed; some are interrupted twice. Each
rank records what every optimizer step has learned from. A trial is passed if

- every process ended within 60 s of the signal, and with an error,
- after SIGINT and SIGTERM the checkpoint holds the last step that any rank took,
- every step of every process learned from the samples that the uninterrupted run took at that step,
- the final weights and the state of the optimizer have the same bits as those of the uninterrupted run.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from ranks import environments

ROOT = Path(__file__).parents[1]
STEPS = 24
HANG = 60  # seconds from a signal to the end of all ranks
START = 240  # seconds for a whole run
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
COMMON = (
    *(f"--model.{key}" for key in ("width=16", "layers=1", "mlp_width=16")),
    *(f"--data.{key}" for key in ("batch_size=4",)),
    *(f"--trainer.{key}" for key in ("accelerator=cpu", "num_nodes=1", f"max_steps={STEPS}", "val_check_interval=20")),
    *(f"--trainer.{key}" for key in ("enable_progress_bar=false", "enable_model_summary=false")),
    "--checkpoint_every=5",
)


class Kind(NamedTuple):
    """What is trained."""

    ranks: int
    data: str  # tasks or text
    accumulate: int  # batches of a step


class Blow(NamedTuple):
    """What interrupts a run."""

    number: signal.Signals
    all_ranks: bool
    rank: int  # the one that is hit otherwise
    batch: int  # counted from the start of the process
    delay: float  # seconds after the batch begins


class Recorder(L.Callback):
    """Writes a line for every optimizer step into the folder, and interrupts its own process at a batch."""

    def __init__(self, folder: str, blow: list[float] | None = None):
        self.folder = Path(folder)
        self.blow = blow  # signal, whether it hits the process group, rank or -1 for all, batch, delay
        self.batches = 0
        self.hash = hashlib.md5()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if self.blow and self.batches == self.blow[3] and self.blow[2] in (-1, trainer.global_rank):
            timer = threading.Timer(self.blow[4], self._strike)
            timer.daemon = True  # a run that ends first is not hit
            timer.start()

    def _strike(self) -> None:
        assert self.blow is not None
        (self.folder / "struck").touch()
        number = int(self.blow[0])
        if self.blow[1]:
            os.killpg(os.getpgrp(), number)  # the workers too, as Ctrl-C in a terminal does
        else:
            os.kill(os.getpid(), number)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for field in batch:
            self.hash.update(field.numpy().tobytes())
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            line = json.dumps([self.step, self.hash.hexdigest()]) + "\n"
            with (self.folder / f"rank{trainer.global_rank}").open("a") as file:
                file.write(line)
            self.hash = hashlib.md5()


class Failure(Exception):
    """A trial that is not passed."""


class Server:
    """Forks processes that run lrnn.fit (tests/fork_server.py)."""

    def __init__(self, log: Path):
        code = "import runpy; runpy.run_path('tests/fork_server.py')"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def ask(self, **command: Any) -> int | None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer: int | None = json.loads(self.process.stdout.readline())
        return answer

    def run(self, folder: Path, ranks: int, arguments: list[str]) -> tuple[list[int], float]:
        """Run all ranks to their ends; return their statuses, and the seconds from the blow, if any, to the last end.

        Raises Failure if they hang.
        """
        struck, began = folder / "struck", time.time()
        struck.unlink(missing_ok=True)
        pids = [self.ask(arguments=arguments, environment=env) for env in environments(ranks)]
        statuses: dict[int, int] = {}
        try:
            while len(statuses) < ranks:
                for pid in pids:
                    if pid not in statuses and (status := self.ask(poll=pid)) is not None:
                        statuses[pid] = status
                late = time.time() - struck.stat().st_mtime > HANG if struck.exists() else time.time() - began > START
                if late:
                    raise Failure(f"hangs; ended: {sorted(statuses.values())} of {ranks} ranks")
                time.sleep(0.02)
        finally:
            for pid in pids:
                if pid not in statuses:
                    os.killpg(pid, signal.SIGKILL)
                    while self.ask(poll=pid) is None:
                        time.sleep(0.02)
        return [statuses[pid] for pid in pids], time.time() - struck.stat().st_mtime if struck.exists() else 0.0


def arguments_of(kind: Kind, folder: Path, shards: Path, blow: Blow | None, *more: str) -> list[str]:
    """The command line of a run in `folder`."""
    config = "conf/parity.yaml" if kind.data == "tasks" else "conf/pretrain_smoke.yaml"
    data = ["validation_samples=6"] if kind.data == "tasks" else [f"shards={shards}", "context=16", "validation_rows=6"]
    strike = None
    if blow:
        rank = -1 if blow.all_ranks else blow.rank
        strike = [int(blow.number), int(blow.all_ranks), rank, blow.batch, blow.delay]
    recorder = {"class_path": "torture.Recorder", "init_args": {"folder": str(folder), "blow": strike}}
    trainer = [f"devices={kind.ranks}", f"accumulate_grad_batches={kind.accumulate}"]
    trainer += [f"callbacks={json.dumps([recorder])}", *["strategy=ddp"] * (kind.ranks > 1)]
    options = [*(f"--data.{key}" for key in data), *(f"--trainer.{key}" for key in trainer)]
    return [f"--config={config}", *COMMON, *options, f"--run_dir={folder}/run", *more]


def recorded(folder: Path, ranks: int) -> list[list[tuple[int, str]]]:
    """The steps and hashes that each rank has written, over all its processes."""
    files = [folder / f"rank{rank}" for rank in range(ranks)]
    return [[tuple(json.loads(line)) for line in f.read_text().splitlines()] if f.exists() else [] for f in files]


def bits(folder: Path) -> tuple[int, str]:
    """The step of the checkpoint, and a hash of its weights and of the optimizer's state."""
    saved = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    content = hashlib.md5()
    moments = [state for optimizer in saved["optimizer_states"] for state in optimizer["state"].values()]
    for tensors in (saved["state_dict"], *moments):
        for name in sorted(tensors):
            content.update(name.encode() + tensors[name].numpy().tobytes())
    return saved["global_step"], content.hexdigest()


class Reference(NamedTuple):
    """An uninterrupted run."""

    steps: list[dict[int, str]]  # hash by step, of each rank
    bits: tuple[int, str]


def reference(server: Server, kind: Kind, folder: Path, shards: Path) -> Reference:
    folder.mkdir(parents=True)
    statuses, _ = server.run(folder, kind.ranks, arguments_of(kind, folder, shards, None))
    if any(statuses):
        raise Failure(f"the uninterrupted run ended with {statuses}")
    return Reference([dict(rows) for rows in recorded(folder, kind.ranks)], bits(folder))


def trial(
    server: Server, kind: Kind, blows: list[Blow], more: list[str], folder: Path, shards: Path, want: Reference
) -> str:
    """Run, interrupt and resume; return what happened. Raises Failure."""
    folder.mkdir(parents=True)
    checkpoint, told = folder / "run/checkpoints/last.ckpt", []
    for blow in (*blows, None):
        resume = []
        if checkpoint.exists():
            resume = ["--resume=true"]
        elif (folder / "run").exists():  # killed before the first checkpoint
            shutil.rmtree(folder / "run")
        statuses, seconds = server.run(folder, kind.ranks, arguments_of(kind, folder, shards, blow, *more, *resume))
        if not blow and any(statuses):
            raise Failure(f"the resumed run ended with {statuses}")
        if blow and (folder / "struck").exists():
            told.append(check_blow(folder, kind, blow, statuses, seconds))
    check_end(folder, kind, want)
    return ", ".join(told) or "not hit"


def check_blow(folder: Path, kind: Kind, blow: Blow, statuses: list[int], seconds: float) -> str:
    last = max((step for rows in recorded(folder, kind.ranks) for step, _ in rows), default=0)
    if not all(statuses):
        if any(statuses) or last < STEPS:
            raise Failure(f"ended with {statuses} after {blow.number.name} at step {last} of {STEPS}")
        return "finished before"
    if blow.number != signal.SIGKILL and (saved := bits(folder)[0]) != last:
        raise Failure(f"{blow.number.name}: a rank took step {last}, the checkpoint is of step {saved}")
    return (
        f"{blow.number.name} to {'all' if blow.all_ranks else blow.rank} in step {last + 1}, ended in {seconds:.1f} s"
    )


def check_end(folder: Path, kind: Kind, want: Reference) -> None:
    for rank, (rows, right) in enumerate(zip(recorded(folder, kind.ranks), want.steps, strict=True)):
        wrong = sorted({step for step, samples in rows if right.get(step) != samples})
        missing = sorted(right.keys() - {step for step, _ in rows})
        if wrong or missing:
            raise Failure(f"rank {rank}: other samples at steps {wrong}, none at {missing}")
    if (end := bits(folder)) != want.bits:
        raise Failure(f"other bits at the end, step {end[0]}")


def write_shards(folder: Path) -> Path:
    """Write random text: 400 rows of 16 tokens to train on, 30 to validate, over a vocabulary of 50."""
    from data.text.shards import Manifest, ShardWriter
    from data.text.tokenizer import tokenizer_sha256

    folder.mkdir()
    draw, splits = np.random.default_rng(0).integers, {}
    for split, rows in (("train", 400), ("validation", 30)):
        writer = ShardWriter(folder / f"{split}-00000.bin")
        writer.write(draw(3, 50, rows * 16 + 1).astype(np.uint16), 1)
        splits[split] = tuple(writer.close())
    Manifest(
        tokenizer="data/mistral_v1",
        tokenizer_sha256=tokenizer_sha256(str(ROOT / "data/mistral_v1")),
        vocab_size=50,
        eos=2,
        dtype="uint16",
        settings={},
        skipped=0,
        splits=splits,
    ).save(folder)
    return folder


def plan(trials: int, seed: int) -> list[tuple[Kind, list[Blow], list[str]]]:
    """Every kind with every signal to one rank and to all, in a random order, as often as there are trials."""
    draw = random.Random(seed)
    cells = list(product((1, 2, 4), ("tasks", "text"), (1, 4), SIGNALS, (False, True)))
    planned: list[tuple[Kind, list[Blow], list[str]]] = []
    while len(planned) < trials:
        for ranks, data, accumulate, number, all_ranks in draw.sample(cells, len(cells)):
            blows = []
            for _ in range(draw.choice((1, 1, 2))):
                batch = draw.randint(1, STEPS * accumulate * 2 // 3)
                blows.append(Blow(number, all_ranks, draw.randrange(ranks), batch, draw.uniform(0, 0.03)))
            more = [f"--data.num_workers={draw.choice((0, 1))}"]
            more += draw.choice(([], ["--trainer.limit_train_batches=12", "--trainer.val_check_interval=1.0"]))
            planned.append((Kind(ranks, data, accumulate), blows, more))
    return planned[:trials]


def table(passed: Counter, tried: Counter) -> str:
    names = [number.name for number in SIGNALS]
    rows = [f"{'ranks':>5}  {'data':<5}  {'accumulation':>12}  " + "  ".join(f"{name:>8}" for name in names)]
    for kind in sorted({kind for kind, _ in tried}):
        cells = (f"{passed[kind, name]}/{tried[kind, name]}" for name in names)
        rows.append(f"{kind.ranks:>5}  {kind.data:<5}  {kind.accumulate:>12}  " + "  ".join(f"{c:>8}" for c in cells))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="Number of interrupted runs.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the order, the moments and the ranks.")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    work = Path(tempfile.mkdtemp(prefix="torture-"))
    server, shards = Server(work / "log"), write_shards(work / "shards")
    references: dict[Kind, Reference] = {}
    passed, tried, began = Counter[Any](), Counter[Any](), time.monotonic()
    for i, (kind, blows, more) in enumerate(plan(options.trials, options.seed)):
        folder, logged, cell = work / str(i), server.log.stat().st_size, (kind, blows[0].number.name)
        tried[cell] += 1
        try:
            if kind not in references:
                references[kind] = reference(server, kind, folder / "whole", shards)
            result = "ok      " + trial(server, kind, blows, more, folder / "cut", shards, references[kind])
            passed[cell] += 1
            shutil.rmtree(folder)
        except Failure as failure:
            result = f"FAILED  {failure} ({folder}; {server.log} from byte {logged} on)"
        name = f"{kind.ranks} ranks, {kind.data}, accumulation {kind.accumulate}, {blows[0].number.name}"
        print(f"{i + 1:>3}/{options.trials}  {name:<40}  {result}", flush=True)
    print(f"\n{table(passed, tried)}\n\n{passed.total()} of {tried.total()} passed", end=" ")
    print(f"in {(time.monotonic() - began) / 60:.1f} minutes")
    server.process.communicate()
    if passed == tried:
        shutil.rmtree(work)
    sys.exit(passed != tried)


if __name__ == "__main__":
    main()
