"""End the processes that Lightning starts for further ranks when the process that started them ends."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LAUNCHER = "LRNN_FIT_LAUNCHER"  # environment variable: id of the process that starts ranks
POLL = 0.5  # seconds


@contextmanager
def launching() -> Iterator[None]:
    """Within the context, tell the processes that this one starts its id."""
    before = os.environ.get(LAUNCHER)
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        if before is None:
            del os.environ[LAUNCHER]
        else:
            os.environ[LAUNCHER] = before


def end_with_launcher() -> None:
    """End this process soon after the one that started it as a further rank, if one did.

    Without this, a rank could wait for half an hour: for a GPU, or for a first rank that was killed before it opened
    its port.
    """
    if (launcher := _launcher()) is not None:
        threading.Thread(target=_watch, args=(launcher,), name="launcher", daemon=True).start()


def let_launcher_fail_first(seconds: float = 10.0) -> None:
    """Wait, in a further rank that failed, for the process that started it to fail too.

    Most errors occur on all ranks, and the first rank prints them. Lightning kills the first rank as soon as it sees
    that another one failed, which may be before the first has printed why.
    """
    if _launcher() is not None:
        time.sleep(seconds)  # end_with_launcher ends this process in the meantime


def _launcher() -> int | None:
    launcher = os.environ.get(LAUNCHER)
    further = os.environ.get("LOCAL_RANK", "0") != "0"
    return int(launcher) if launcher is not None and further and int(launcher) != os.getpid() else None


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(POLL)
    os._exit(1)
