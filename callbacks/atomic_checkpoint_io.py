"""Write a checkpoint so that its name never stands for half of it."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames when the new one is whole.

    Lightning's own writes into the folder of temporary files. If that is another disk, as on many clusters, its last
    step is a copy over the old checkpoint. It also needs memory for a second copy of the checkpoint. Neither waits for
    the disk: a killed process leaves a whole checkpoint, while a power cut may cost the newest one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Save, or raise an OSError that names the file and leave the old checkpoint."""
        path = Path(path)
        new = path.with_name(f"{path.name}.new")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(checkpoint, new)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def write_atomically(strategy: Strategy) -> None:
    """Put AtomicCheckpointIO in the place of Lightning's own class, also inside of AsyncCheckpointIO.

    A class that the user has chosen stays.
    """
    io = strategy.checkpoint_io
    if type(io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
    elif isinstance(io, _WrappingCheckpointIO) and type(io.checkpoint_io) is TorchCheckpointIO:
        io._checkpoint_io = AtomicCheckpointIO()  # the property can't be set twice


def write(content: Any, path: Path) -> None:
    """Call torch.save. Whatever keeps it from writing becomes an OSError with the path."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        cause = first_os_error(error)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def first_os_error(error: BaseException | None) -> OSError | None:
    """Return the OSError that an error was raised from or after, if any: PyTorch's writer hides it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
