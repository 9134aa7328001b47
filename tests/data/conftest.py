from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loops.progress import _BatchProgress


@pytest.fixture(scope="session")
def as_rank():
    """Give a data module the trainer of one of several ranks, without starting them."""

    def attach(data, rank=0, ranks=1, step=0):
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=ranks,
            global_step=step,
            accumulate_grad_batches=1,
            limit_train_batches=1.0,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=_BatchProgress())),
        )
        return data

    return attach
