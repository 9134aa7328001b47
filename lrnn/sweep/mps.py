"""NVIDIA's multi-process service (MPS) lets several processes run their kernels on a GPU at once.

Without it processes take turns on a GPU, and the kernels of a small model leave most of the GPU idle.
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
    """Let the processes that are started inside the context share their GPUs, if MPS is available.

    If the environment variable PIPES names the folder of a running service, that service is used. Otherwise one is
    started. It serves only the processes of this sweep, and ends with the context.

    A run that breaks the context of its GPU, for example by an illegal address, also ends the runs that share this GPU.

    Args:
        answers: Function that tells whether a new process can use its GPU.

    Yields:
        A sentence for the user: whether the runs share their GPU, and if not, why.
    """
    if PIPES in os.environ:
        yield f"the runs share their GPU through the MPS of {os.environ[PIPES]}"
        return
    if not shutil.which(CONTROL):
        yield f"the runs take turns on their GPU: {CONTROL}, which lets them share it, is not installed"
        return
    with tempfile.TemporaryDirectory(prefix="mps_", ignore_cleanup_errors=True) as folder:
        # the service sees all GPUs, because CUDA_VISIBLE_DEVICES would number them differently
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
        reason = lines[-1] if lines else "it printed nothing"
    yield f"the runs take turns on their GPU: MPS does not work here ({reason})"
