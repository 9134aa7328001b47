"""Find out whether a checkpoint is whole, before a run continues from it."""

import zipfile
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException

from lrnn.runtime.checkpoint import UNREADABLE, read_metadata
from lrnn.runtime.errors import ConfigError

ENTRIES = ("state_dict", "optimizer_states", "loops", "global_step", "hyper_parameters", "model", "data")


def read_whole(path: Path) -> dict[str, Any]:
    """Read what a checkpoint says of its run, and check that everything a run continues from is there.

    Args:
        path: A file or a folder of shards (lrnn/runtime/checkpoint.py).

    Raises:
        ConfigError: if the checkpoint is damaged, or is not one of python -m lrnn.fit.
    """
    try:
        saved = read_metadata(path)
        if path.is_dir():
            _check_shards(path)
        else:
            _check_file(path, saved)
    except (*UNREADABLE, ValueError, zipfile.BadZipFile, CheckpointException) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"resume: {path} is damaged or not of python -m lrnn.fit ({_short(reason)})") from error
    return saved


def _check_file(path: Path, saved: dict[str, Any]) -> None:
    if missing := [name for name in ENTRIES if name not in saved]:
        raise LookupError(f"no {', '.join(missing)}")
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # one rank is enough: it takes 0.4 s a GiB
        return
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():  # compares checksums, which torch.load does not
            raise OSError(f"{broken} is broken")


def _check_shards(folder: Path) -> None:
    ends: dict[str, int] = {}
    for part in FileSystemReader(folder).read_metadata().storage_data.values():
        ends[part.relative_path] = max(ends.get(part.relative_path, 0), part.offset + part.length)
    for name, end in ends.items():
        if (folder / name).stat().st_size < end:
            raise OSError(f"{name} is cut off")


def _short(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= 120 else f"{reason[:117]}..."
