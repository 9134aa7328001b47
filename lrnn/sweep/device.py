"""GPUs and CPU cores on which a sweep trains."""

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from lrnn.runtime.errors import ConfigError

# glibc otherwise gives memory back after each use of a large tensor, and the kernel clears its pages at the next use
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
STRIKES = 2  # failures in a row, with the GPU silent after each, that retire it


@dataclass(eq=False)
class Device:
    """A GPU, by its name in CUDA_VISIBLE_DEVICES, or a CPU core."""

    gpu: str | None
    threads: int = 1
    strikes: int = 0

    @property
    def retired(self) -> bool:
        return self.strikes >= STRIKES

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the processes on this device."""
        own = MALLOC if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        # the compiler's threads too: without kernels from an earlier run, all runs compile at once
        threads = dict.fromkeys(("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), str(self.threads))
        return {**os.environ, **threads, **own}

    def answers(self) -> bool:
        """Tell whether the device works. A process can't regain a lost GPU, so another one tries it."""
        if self.gpu is None:
            return True
        question = [sys.executable, "-c", "import torch; torch.ones(1, device='cuda').item()"]
        try:
            return subprocess.run(question, env=self.environment, capture_output=True, timeout=120).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def find_devices(accelerator: Literal["cpu", "gpu"], count: int | None, runs_per_device: int) -> list[Device]:
    """Return the first `count` GPUs or cores, or all of them if `count` is None.

    Raises:
        ConfigError: if there are fewer GPUs than that.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if accelerator == "cpu":
        return [Device(None) for _ in range(count or cores)]
    import torch  # takes seconds, and a sweep on a CPU does not need it

    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if gpus == [""]:
        gpus = [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.is_available() or len(gpus) < (count or 1):
        found = len(gpus) if torch.cuda.is_available() else 0
        raise ConfigError(
            f"devices: the sweep needs {count or 'at least 1'} GPUs, and CUDA finds {found}; "
            "or train on a CPU with --accelerator=cpu"
        )
    gpus = gpus[:count]
    return [Device(gpu, max(1, cores // (len(gpus) * runs_per_device))) for gpu in gpus]
