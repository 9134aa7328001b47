"""Let only one process at a time write into a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import DataError


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Lock a folder. The system unlocks it when the process ends, however it ends.

    Raises DataError if another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(f"out: another process is writing to {folder}; wait, or choose another folder") from error
    except OSError:  # a file system without locks
        pass
