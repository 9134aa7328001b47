"""Runs side by side: each a process, several on a device, none twice."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from lrnn.runtime.errors import ConfigError
from lrnn.sweep.grid import Run

FIT = (sys.executable, "-m", "lrnn.fit")
HEADING = "$ "  # in a log, before the command of each attempt
STRIKES = 2  # failures in a row, with the GPU silent after each, that retire it


@dataclass(eq=False)
class Device:
    """A GPU, by its name in CUDA_VISIBLE_DEVICES, or a CPU core."""

    gpu: str | None
    threads: int = 1
    strikes: int = 0

    @property
    def retired(self) -> bool:
        return self.strikes >= STRIKES

    @property
    def environment(self) -> dict[str, str]:
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        # the compiler's, too: with no kernels kept from before, all runs compile them at once
        threads = dict.fromkeys(("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), str(self.threads))
        return {**os.environ, **threads, **gpu}

    def answers(self) -> bool:
        """Does the GPU still do what it is told? Asked in a process of its own: a lost GPU cannot be found again."""
        if self.gpu is None:
            return True
        question = [sys.executable, "-c", "import torch; torch.ones(1, device='cuda').item()"]
        try:
            return subprocess.run(question, env=self.environment, capture_output=True, timeout=120).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def find_devices(accelerator: Literal["cpu", "gpu"], count: int | None, runs_per_device: int) -> list[Device]:
    """The first `count` GPUs or cores, by default all."""
    cores = os.cpu_count() or 1
    if accelerator == "cpu":
        return [Device(None) for _ in range(count or cores)]
    import torch  # takes seconds, and a sweep on a CPU needs none of it

    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if gpus == [""]:
        gpus = [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.is_available() or len(gpus) < (count or 1):
        found = len(gpus) if torch.cuda.is_available() else 0
        raise ConfigError(
            f"devices: {count or 'all'} GPUs were asked for, CUDA finds {found} here; or accelerator: cpu"
        )
    gpus = gpus[:count]
    return [Device(gpu, max(1, cores // (len(gpus) * runs_per_device))) for gpu in gpus]


@dataclass(eq=False)
class Attempt:
    """A run in training."""

    run: Run
    device: Device
    process: subprocess.Popen
    lock: IO
    start: float


class Schedule:
    """Call `tick` until it is no longer `busy`. Of several sweeps over one folder, each run belongs to one at a time:
    a run that another trains is waited for, and trained here if it does not finish there."""

    def __init__(self, runs: Iterable[Run], devices: Sequence[Device], runs_per_device: int = 1):
        self.waiting = deque(runs)
        self.free = deque(device for _ in range(runs_per_device) for device in devices)
        self.running: list[Attempt] = []
        self.done: list[Run] = []
        self.failed: dict[Run, str] = {}

    @property
    def busy(self) -> bool:
        return bool(self.running or (self.waiting and self.free))

    def tick(self) -> list[str]:
        """Take in what has ended and start what can be; what there is to say about it."""
        said = []
        for ended in [attempt for attempt in self.running if attempt.process.poll() is not None]:
            said += self._end(ended)
        for _ in range(len(self.waiting)):
            if not self.free:
                break
            run = self.waiting.popleft()
            if run.result() is not None:
                self.done.append(run)
            elif attempt := start(run, self.free[0]):
                self.running.append(attempt)
                self.free.popleft()
            else:
                self.waiting.append(run)
        return said

    def _end(self, attempt: Attempt) -> list[str]:
        attempt.lock.close()
        self.running.remove(attempt)
        run, device, seconds = attempt.run, attempt.device, time.monotonic() - attempt.start
        said = []
        if (result := run.result()) is not None:
            self.done.append(run)
            device.strikes = 0
            said.append(f"{run.name}: {result['scaled_accuracy']:.4f}, {seconds:.0f} s")
        else:
            code, lost = attempt.process.returncode, not device.answers()
            end = f"killed by signal {-code}" if code < 0 else complaint(run.beside(".log"))
            self.failed[run] = f"GPU {device.gpu} does not answer any more; {end}" if lost else end
            device.strikes = device.strikes + 1 if lost else 0
            said.append(f"{run.name}: failed, {self.failed[run]}")
            if lost and device.retired:
                said.append(f"GPU {device.gpu} is not used any more")
        if device.retired:
            self.free = deque(other for other in self.free if other is not device)
        else:
            self.free.append(device)
        return said

    def stop(self) -> None:
        """Let the runs leave a checkpoint; one in its last evaluation ends it. Called again, kill them."""
        for attempt in self.running:
            attempt.process.send_signal(signal.SIGINT)
        try:
            for attempt in self.running:
                attempt.process.wait()
        except KeyboardInterrupt:
            for attempt in self.running:
                attempt.process.kill()
                attempt.process.wait()
            raise


def start(run: Run, device: Device) -> Attempt | None:
    """Start or resume a run in a process of its own, or do nothing if one trains it already or has just finished it.

    The process inherits the lock, so it is held as long as anything trains this run, even after the sweep was killed.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    lock = run.beside(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    if run.result() is not None:
        lock.close()
        return None
    arguments = [*run.arguments(), "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    if run.checkpoint.is_file():
        arguments.append("--resume=true")
    else:
        shutil.rmtree(run.folder, ignore_errors=True)  # cut off before its first checkpoint
    with run.beside(".log").open("a") as log:
        log.write(f"{HEADING}{run.command()}\n")
        log.flush()
        process = subprocess.Popen(
            [*FIT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=device.environment,
            pass_fds=(lock.fileno(),),
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on once
        )
    return Attempt(run, device, process, lock, time.monotonic())


def complaint(log: Path) -> str:
    """The last line of the last attempt that names an error, or the last at all."""
    attempt = log.read_text(errors="replace").rpartition(f"{HEADING}python ")[2]
    lines = [line.strip() for line in attempt.splitlines()[1:] if line.strip()]
    errors = [line for line in lines if re.match(r"(error|[\w.]*(Error|Exception|Interrupt))\b", line)]
    return (errors or lines or ["it said nothing"])[-1]
