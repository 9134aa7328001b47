"""Compiled and tuned GPU kernels are kept between runs.

The first step on a new kind of GPU compiles and tunes for minutes; later ones read the result from KERNEL_CACHE, by
default `.kernel_cache/` in the current folder. The folder may be copied to another machine with the same kind of
GPU and the same versions of PyTorch and Triton. Import this before torch compiles anything.
"""

import os
from pathlib import Path

KERNEL_CACHE = Path(os.environ.get("KERNEL_CACHE", ".kernel_cache")).absolute()

os.environ.setdefault("TRITON_CACHE_DIR", str(KERNEL_CACHE / "triton"))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(KERNEL_CACHE / "inductor"))
