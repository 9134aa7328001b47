"""Checkpoints of `python -m lrnn.fit`: one file, or with FSDP (callbacks/fully_sharded.py) a folder of shards."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import checkpoint


def read_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its run; that of a file holds the weights too, which stay on the disk until used."""
    return torch.load(path / "meta.pt" if path.is_dir() else path, map_location="cpu", weights_only=True, mmap=True)


def read_weights(path: Path, model: nn.Module) -> None:
    if path.is_dir():
        weights = model.state_dict()
        with warnings.catch_warnings(action="ignore"):  # which say that this is one process
            checkpoint.load({"state_dict": weights}, checkpoint_id=path, no_dist=True)
    else:
        weights = read_metadata(path)["state_dict"]
    model.load_state_dict(weights)
