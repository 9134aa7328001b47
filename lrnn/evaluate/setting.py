"""What every evaluation of a checkpoint needs: the configuration of its run, a device and a precision."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from lrnn.runtime.errors import ConfigError

Precision = Literal["32-true", "bf16-mixed"]


def run_config(checkpoint: str) -> dict[str, Any]:
    """Return the configuration of the run that wrote <run>/checkpoints/<checkpoint>; empty if the file was moved."""
    path = Path(checkpoint).parent.parent / "config.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else {}


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` stands for.

    Raises:
        ConfigError: if there is no GPU and one is asked for.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: a GPU was asked for, but CUDA finds none here; choose cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def precision_context(name: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Return what makes the contexts in which Lightning calls a model of that precision.

    Raises:
        ConfigError: for a precision other than 32-true and bf16-mixed.
    """
    if name == "32-true":
        return nullcontext
    if name == "bf16-mixed":
        return partial(torch.autocast, device.type, torch.bfloat16, cache_enabled=False)
    raise ConfigError(f"precision: the run was trained in {name}; set --precision to 32-true or bf16-mixed")
