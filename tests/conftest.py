import pytest
import torch


@pytest.fixture(autouse=True)
def _fixed_seed_and_one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
