"""Signals that ask a run to stop, and the optimizer step after which all ranks do."""

import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Any

from torch import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # Ctrl-C, a preempted job, Slurm's --signal=USR1
POLL = 0.2  # seconds between two looks at the store
SAME = 1.0  # seconds in which another signal counts as the same: a launcher may pass on what its group got too
ANSWER = timedelta(seconds=60)  # time in which every rank must say how far it is

_runs = count()  # every rank counts its runs alike, so that each run has keys of its own


class AgreedStop:
    """Tells every rank the last optimizer step of a run that was signalled, whichever rank the signal hit.

    A thread of each rank receives the signals and looks at the store through which the ranks found each other. When one
    rank was signalled, the thread of every rank writes which step its rank is in. The latest of these steps is the last
    one: no rank has to stop in the middle of a step, and none has begun a later one. A training step costs a lock and
    no message.

    A second signal, a second or more after the first, ends the process at once, also while it waits for a GPU or for
    another rank.
    """

    def __init__(self, rank: int, ranks: int):
        self.rank = rank
        self.ranks = ranks
        self._signal: int | None = None
        self._since = 0.0
        self._step = 0  # in progress
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._handlers: dict[int, Any] = {}
        self._thread: threading.Thread | None = None

    def open(self, step: int) -> None:
        """Receive signals from now on; `step` optimizer steps are done. A second call only sets the handlers again."""
        self._step = step + 1
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.signal(number, _received)
                self._handlers.setdefault(number, handler)
        if self._thread is None:
            self._store = self._connect() if self.ranks > 1 else None
            self._wakeups, self._wakeup = socket.socketpair()
            self._wakeup.setblocking(False)
            if self._handlers:
                self._previous_wakeup = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, name="agreed-stop", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Give the signals back to the handlers before."""
        if self._thread is None:
            return
        self._closed.set()
        if self._handlers:
            signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}
        self._thread.join()
        self._thread = None
        self._wakeups.close()
        self._wakeup.close()

    def after_step(self, step: int) -> int | None:
        """Return the signal if `step` is the run's last step. Every rank calls this after every optimizer step.

        Raises:
            RuntimeError: if another rank does not say within a minute how far it is.
        """
        with self._lock:
            self._step = max(self._step, step)
            if self._signal is None:
                self._step = step + 1
                return None
        return self._signal if step >= self._last_step() else None

    def _last_step(self) -> int:
        if self._store is None:
            return self._step
        keys = [f"step of {rank}" for rank in range(self.ranks)]
        self._store.wait(keys, ANSWER)
        return max(int(self._store.get(key)) for key in keys)

    def _watch(self) -> None:
        while not self._closed.is_set():
            if select.select([self._wakeups], [], [], POLL)[0]:
                for number in self._wakeups.recv(64):
                    self._signalled(number)
            # the store may have gone with the rank that held it; the next collective of this rank then fails
            with suppress(RuntimeError):
                if self._signal is None and self._store is not None and self._store.check(["signal"]):
                    self._stop(int(self._store.get("signal")))

    def _signalled(self, number: int) -> None:
        if number not in SIGNALS:
            return
        if self._signal is None:
            self._stop(number)
        elif time.monotonic() - self._since > SAME:
            sys.stderr.write(f"error: ended at once by a second {signal.Signals(number).name}\n")
            sys.stderr.flush()
            os._exit(128 + number)

    def _stop(self, number: int) -> None:
        # the lock covers the messages: `_last_step` holds the connection while it waits, so this step is written before
        with self._lock:
            self._signal, self._since = number, time.monotonic()
            if self._store is not None:
                with suppress(RuntimeError):
                    self._store.set("signal", str(number))
                    self._store.set(f"step of {self.rank}", str(self._step))

    def _connect(self) -> distributed.Store:
        """Return a connection of our own to the store that the ranks found each other through."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.TCPStore(host, port, is_master=False, timeout=ANSWER)
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return distributed.PrefixStore(f"stop {restart} {next(_runs)}", store)


def _received(*_: Any) -> None:
    """Do nothing: the thread reads the signal's number. Python writes it only where a signal has a handler."""


def _forget() -> None:
    with suppress(ValueError):  # this is not the main thread, or the descriptor is closed
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)  # else the signals of a data worker would be those of the run
