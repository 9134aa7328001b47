"""Keep compiled and tuned GPU kernels between runs.

The first step on a new kind of GPU compiles and tunes for minutes. Later runs read the result from the folder that the
environment variable KERNEL_CACHE names, by default `.kernel_cache/` in the current folder. The folder may be copied to
the same path of another machine with the same GPU, PyTorch and Triton. Import this module before torch compiles.
"""

import os
from pathlib import Path

KERNEL_CACHE = Path(os.environ.get("KERNEL_CACHE", ".kernel_cache")).absolute()

os.environ.setdefault("TRITON_CACHE_DIR", str(KERNEL_CACHE / "triton"))
# Not `inductor`: under that name a folder may hold wrong gradients, which PyTorch would read. compile_hot_paths
# (callbacks/compile_training.py) says why they were wrong.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(KERNEL_CACHE / "compiled"))
