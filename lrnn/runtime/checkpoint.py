"""Checkpoints of `python -m lrnn.fit`: one file, or with FSDP (callbacks/strategy/fully_sharded.py) a folder of shards.

checkpoints/last.ckpt                               a file: class paths, hyperparameters, weights, optimizer
checkpoints/last.ckpt/  meta.pt                     a folder: everything but the tensors
                        .metadata  __0_0.distcp     weights and optimizer in torch.distributed.checkpoint's shards
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from lrnn.models import LanguageModel
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.instantiate import instantiate

# the errors that reading a damaged file, or a file of another program, ends in
UNREADABLE = (OSError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what a checkpoint says of its run, without unpickling code.

    The result for a file holds the weights too; they stay on the disk until they are used.

    Raises:
        ConfigError: if the checkpoint was written before checkpoints named their class by its import path.
    """
    saved = torch.load(path / "meta.pt" if path.is_dir() else path, map_location="cpu", weights_only=True, mmap=True)
    name = saved["model"]
    if "." not in name:
        raise ConfigError(
            f"checkpoint: {path} is of an older version of this project: it names its model {name}, not an import path "
            f"such as lrnn.models.{name}; read it with that version, or train again"
        )
    return saved


def find_checkpoint(path: str) -> str:
    """Return the last checkpoint of a run's folder; any other path is returned as it is."""
    folder = Path(path, "checkpoints")
    return str(folder / "last.ckpt") if folder.is_dir() else path


def load_model(checkpoint: str | Path) -> LanguageModel:
    """Build the model that a checkpoint names and fill in its weights, ready to be evaluated.

    The checkpoint names the class by its import path, so it may be of any module that can be imported.

    Raises:
        ConfigError: if there is no such checkpoint, if it is damaged, or if its class is no LanguageModel.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ConfigError(f"checkpoint: there is no {checkpoint}")
    if path.is_dir() and not (path / "meta.pt").is_file():
        raise ConfigError(
            f"checkpoint: {checkpoint} is neither a run's folder nor a whole checkpoint: it has no meta.pt"
        )
    try:
        saved = read_metadata(path)
        # Lightning's own entries start with an underscore
        options = {name: value for name, value in saved["hyper_parameters"].items() if not name.startswith("_")}
        model = instantiate("model", LanguageModel, saved["model"], options)
        model.load_state_dict(_read_shards(path, model.state_dict()) if path.is_dir() else saved["state_dict"])
    except ConfigError as error:
        if str(error).startswith("checkpoint:"):
            raise
        raise ConfigError(f"checkpoint: {checkpoint} can't be loaded ({error})") from error
    except (*UNREADABLE, CheckpointException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"checkpoint: {checkpoint} is not a whole one of python -m lrnn.fit ({reason})") from error
    return model.eval()


def _read_shards(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill the weights, whole, from shards of any number of processes."""
    with warnings.catch_warnings(action="ignore"):  # the warnings say that this is one process
        dcp.load({"state_dict": weights}, checkpoint_id=folder, no_dist=True)
    return weights
