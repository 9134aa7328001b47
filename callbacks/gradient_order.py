"""Give a resumed run on several CPUs the bits of an uninterrupted one."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from callbacks.retire import retire


class GradientOrder(L.Callback):
    """Lets DDP on CPUs add the gradients of the ranks in the order of the ranks.

    DDP sums gradients in buckets, and after the first step of a process it lays them out anew. With three ranks and
    more, the place in a bucket decides in which order the ranks are added, so the first step after a resume would be
    rounded in another way.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and pl_module.device.type == "cpu" and trainer.world_size > 2:
            model.register_comm_hook(None, _mean_in_order)
        retire(self, trainer)


def _mean_in_order(_: Any, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    gradient = bucket.buffer()
    of_ranks = [torch.empty_like(gradient) for _ in range(distributed.get_world_size())]
    distributed.all_gather(of_ranks, gradient)
    total = of_ranks[0]
    for other in of_ranks[1:]:
        total += other
    mean: torch.futures.Future[Tensor] = torch.futures.Future()
    mean.set_result(total / len(of_ranks))
    return mean
