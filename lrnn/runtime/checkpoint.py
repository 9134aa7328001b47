"""Checkpoints of `python -m lrnn.fit`: one file, or with FSDP (callbacks/strategy/fully_sharded.py) a folder of shards.

checkpoints/last.ckpt                               a file: hyperparameters, weights, optimizer
checkpoints/last.ckpt/  meta.pt                     a folder: all but the tensors
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

import lrnn.models
from lrnn.models import LanguageModel
from lrnn.runtime.errors import ConfigError

# what reading a damaged file, or one of another program, ends in
UNREADABLE = (OSError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)


def read_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its run; that of a file holds the weights too, which stay on the disk until used."""
    return torch.load(path / "meta.pt" if path.is_dir() else path, map_location="cpu", weights_only=True, mmap=True)


def load_model(checkpoint: str | Path) -> LanguageModel:
    """The model, ready to be evaluated. Of the optimizer, nothing is read."""
    path = Path(checkpoint)
    if not path.exists():
        raise ConfigError(f"checkpoint: there is no {checkpoint}")
    try:
        saved = read_metadata(path)
        options = {name: value for name, value in saved["hyper_parameters"].items() if not name.startswith("_")}
        model: LanguageModel = getattr(lrnn.models, saved["model"])(**options)
        model.load_state_dict(_read_shards(path, model.state_dict()) if path.is_dir() else saved["state_dict"])
    except (*UNREADABLE, CheckpointException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"checkpoint: {checkpoint} is not a whole one of python -m lrnn.fit ({reason})") from error
    return model.eval()


def _read_shards(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill the weights, whole, from shards of any number of processes."""
    with warnings.catch_warnings(action="ignore"):  # which say that this is one process
        dcp.load({"state_dict": weights}, checkpoint_id=folder, no_dist=True)
    return weights
