"""One attempt to train a run: in a process of its own on a GPU, in a worker that trains run after run on a CPU.

Whoever trains a run holds its lock, which the kernel releases when the last process that holds it has ended. So a run
is locked as long as anything trains it, even after its sweep was killed.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lrnn.sweep.device import Device
from lrnn.sweep.grid import RESULT, Run

FIT = (sys.executable, "-m", "lrnn.fit")
WORKER = (sys.executable, "-m", "lrnn.sweep.worker")
HEADING = "$ "  # in a log, before the command of each attempt


class Worker:
    """A process of `python -m lrnn.sweep.worker`."""

    def __init__(self, device: Device, log: IO):
        """
        Args:
            device: core to train on.
            log: file for what the process prints before its first run, such as a failing import.
        """
        self._requests, theirs = socket.socketpair()
        with theirs:
            self.process = _start_process(WORKER, device, stdin=theirs, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout
        self._reports = self.process.stdout
        os.set_blocking(self._reports.fileno(), False)
        self._received = b""

    def train(self, arguments: Sequence[str], log: Path, lock: IO) -> None:
        line = json.dumps({"arguments": list(arguments), "log": str(log)}) + "\n"
        with suppress(BrokenPipeError):  # the worker has died, as its exit status will tell
            socket.send_fds(self._requests, [line.encode()], [lock.fileno()])

    def reports(self) -> list[dict[str, Any]]:
        """Return the reports since the last call, without waiting for more."""
        with suppress(BlockingIOError):
            while part := os.read(self._reports.fileno(), 2**16):
                self._received += part
        *lines, self._received = self._received.split(b"\n")
        return [json.loads(line) for line in lines]

    def dismiss(self) -> None:
        """Let the process end after its run, if it has one."""
        self._requests.close()

    def close(self) -> None:
        """Wait for the end of the process."""
        self.dismiss()
        self.process.wait()
        self._reports.close()


@dataclass(eq=False)
class Slot:
    """A place for one run at a time. A device has one or several."""

    device: Device
    worker: Worker | None = None


@dataclass(eq=False)
class Attempt:
    """A run in training."""

    run: Run
    slot: Slot
    process: subprocess.Popen
    lock: IO
    start: float
    step: int = 0
    steps: int | None = None  # unknown at first, and on a GPU
    seconds: float | None = None  # that it took, when it has ended

    def ended(self) -> bool:
        """Take in what a worker reports, and tell whether the run has ended."""
        exited = self.process.poll() is not None
        for report in self.slot.worker.reports() if self.slot.worker else ():
            self.step = report.get("step", self.step)
            self.steps = report.get("steps", self.steps)
            self.seconds = report.get("seconds")
        return exited or self.seconds is not None

    def close(self) -> None:
        """Note the time that the attempt took, and release the lock."""
        if self.seconds is None:
            self.seconds = time.monotonic() - self.start
        self.run.add_seconds(self.seconds)
        self.lock.close()

    def complaint(self) -> str:
        """Return why the run has no result: the signal, and the last line of this attempt's log that names an error.

        A run that came to its end needs the callback that writes results.
        """
        attempt = self.run.beside(".log").read_text(errors="replace").rpartition(f"{HEADING}python ")[2]
        lines = [line.strip() for line in attempt.splitlines()[1:] if line.strip()]
        errors = [line for line in lines if re.match(r"(error|[\w.]*(Error|Exception|Interrupt))\b", line)]
        code = self.process.poll()
        if not code:  # 0, or none, as a worker lives on
            return f"it wrote no {RESULT}, as --trainer.callbacks+=callbacks.LengthGeneralization does"
        if code < 0:
            return ", ".join((f"killed by signal {-code}", *errors[-1:]))
        return (errors or lines or ["it printed nothing"])[-1]


def begin(run: Run, slot: Slot) -> Attempt | None:
    """Start or resume a run. Return None if another process trains it, or has just finished it."""
    lock = _claim(run)
    if lock is None:
        return None
    arguments = [*run.arguments(), "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    if run.checkpoint.exists():  # a file, or with fsdp2 a folder
        arguments.append("--resume=true")
    else:  # cut off before its first checkpoint, if it was started at all
        shutil.rmtree(run.folder, ignore_errors=True)
        run.forget_seconds()
    with run.beside(".log").open("a") as log:
        log.write(f"{HEADING}{run.command()}\n")
        log.flush()
        if slot.device.gpu is None:
            process = _train_in_worker(run, slot, arguments, log, lock)
        else:
            process = _start_process((*FIT, *arguments), slot.device, stdout=log, stderr=log, keep=lock)
    return Attempt(run, slot, process, lock, time.monotonic())


def _claim(run: Run) -> IO | None:
    """Return the open lock of a run that is not finished, or None if another process holds it."""
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
    return lock


def _train_in_worker(run: Run, slot: Slot, arguments: Sequence[str], log: IO, lock: IO) -> subprocess.Popen:
    """Hand the run to the slot's worker, or to a new one if that has ended."""
    if slot.worker and slot.worker.process.poll() is not None:
        slot.worker.close()
        slot.worker = None
    slot.worker = slot.worker or Worker(slot.device, log)
    slot.worker.train(arguments, run.beside(".log"), lock)
    return slot.worker.process


def _start_process(
    command: Sequence[str],
    device: Device,
    *,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any,
    stderr: Any,
    keep: IO | None = None,
) -> subprocess.Popen:
    """Start a process that inherits the file `keep`."""
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=device.environment,
        pass_fds=[keep.fileno()] if keep else [],
        start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on once
    )
