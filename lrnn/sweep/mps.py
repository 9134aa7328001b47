"""NVIDIA's multi-process service (MPS): kernels of several processes run on a GPU at once.

Without it processes take turns on a GPU, and a small model's kernels leave most of it empty.
https://docs.nvidia.com/deploy/mps
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"  # comes with the driver
PIPES = "CUDA_MPS_PIPE_DIRECTORY"  # where processes find the service


@contextmanager
def shared_gpus(answers: Callable[[], bool]) -> Iterator[str]:
    """Processes started within share their GPUs, where MPS is to be had; yields what came of it, in words.

    A service that runs already, as PIPES in the environment tells, is used. One that is started here serves this
    sweep's processes alone, and ends with it. `answers` tells whether a new process can use its GPU.

    A run that breaks its GPU's context, by an illegal address for one, takes along those that share the GPU with it.
    """
    if PIPES in os.environ:
        yield f"the runs share their GPU through the MPS of {os.environ[PIPES]}"
        return
    if not shutil.which(CONTROL):
        yield f"the runs take turns on their GPU: {CONTROL}, with which they would share it, is not there"
        return
    with tempfile.TemporaryDirectory(prefix="mps_", ignore_cleanup_errors=True) as folder:
        # all GPUs: CUDA_VISIBLE_DEVICES would give them other numbers
        environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        environment |= {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        begun = subprocess.run([CONTROL, "-d"], env=environment, capture_output=True, text=True)
        os.environ[PIPES] = folder
        try:
            if begun.returncode == 0 and answers():
                yield "the runs share their GPU through MPS"
                return
        finally:
            del os.environ[PIPES]
            if begun.returncode == 0:
                subprocess.run([CONTROL], input="quit\n", env=environment, capture_output=True, text=True)
        log = Path(folder, "control.log")
        lines = (log.read_text() if log.exists() else begun.stdout + begun.stderr).splitlines()
        reason = lines[-1] if lines else "it said nothing"
    yield f"the runs take turns on their GPU: MPS does not work here ({reason})"
