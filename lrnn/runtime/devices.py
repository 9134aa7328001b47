"""Check `trainer.devices` before any process starts."""

import os

import torch

from lrnn.runtime.errors import ConfigError

PROCESSES_PER_CORE = 8


def check_devices(accelerator: object, devices: object) -> None:
    """Check the number of devices, which on a CPU is a number of processes.

    Args:
        accelerator: The option `trainer.accelerator`.
        devices: The option `trainer.devices`.

    Raises:
        ConfigError: if this machine does not have as many devices, or if it would start too many processes.
    """
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator: CUDA finds no GPU here; choose cpu or auto")
    if devices == "auto":
        return
    count = _count(devices, on_gpu)
    if on_gpu and count > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices: must be at most the {torch.cuda.device_count()} GPUs of this machine, got {count}"
        )
    most = PROCESSES_PER_CORE * (os.cpu_count() or 1)
    if not on_gpu and count > most:
        raise ConfigError(f"trainer.devices: must be at most {most}, {PROCESSES_PER_CORE} for each core, got {count}")


def _count(devices: object, on_gpu: bool) -> int:
    """Return how many devices the option asks for."""
    if on_gpu and devices in (-1, "-1"):
        return torch.cuda.device_count()
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)
    if isinstance(devices, int) and not isinstance(devices, bool) and devices > 0:
        return devices
    if on_gpu and isinstance(devices, str | list):  # the GPUs themselves, which Lightning checks
        return len(devices.split(",") if isinstance(devices, str) else devices)
    allowed = ", -1, or a list of GPUs" if on_gpu else ""
    raise ConfigError(f"trainer.devices: must be auto, a number of at least 1{allowed}, got {str(devices)[:50]}")
