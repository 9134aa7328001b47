import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it then runs kernels on the CPU


@pytest.fixture(autouse=True)
def _fixed_seed_and_one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
