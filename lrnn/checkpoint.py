"""The model of a checkpoint of `python -m lrnn.fit`, which is a file, or a folder that many processes wrote.

checkpoints/last.ckpt                               a file: hyperparameters, weights, optimizer
checkpoints/last.ckpt/  meta.pt                     a folder: all but the tensors
                        .metadata  __0_0.distcp     weights and optimizer in torch.distributed.checkpoint's shards
"""

import pickle
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

import lrnn.models
from lrnn.fit import ConfigError
from lrnn.models import LinearRNN

# what reading a damaged file, or one of another program, ends in
UNREADABLE = (OSError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)


def load_model(checkpoint: str) -> LinearRNN:
    """The model, ready to be evaluated. Of the optimizer, nothing is read."""
    path = Path(checkpoint)
    if not path.exists():
        raise ConfigError(f"checkpoint: there is no file {checkpoint}")
    try:
        description = path / "meta.pt" if path.is_dir() else path
        saved = torch.load(description, map_location="cpu", weights_only=True, mmap=True)
        options = {name: value for name, value in saved["hyper_parameters"].items() if not name.startswith("_")}
        model: LinearRNN = getattr(lrnn.models, saved["model"])(**options)
        model.load_state_dict(_read_shards(path, model.state_dict()) if path.is_dir() else saved["state_dict"])
    except (*UNREADABLE, CheckpointException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"checkpoint: {checkpoint} is not a whole one of python -m lrnn.fit ({reason})") from error
    return model.eval()


def _read_shards(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill the weights, whole, from shards of any number of processes."""
    names = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    key = "state_dict" if any(name.startswith("state_dict.") for name in names) else "model"  # FSDP 2's, or 1's
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # so it is meant
        dcp.load({key: weights}, checkpoint_id=folder, no_dist=True)
    return weights
