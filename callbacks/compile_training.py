"""A GPU kept busy: the training step compiled, and for small models replayed as one CUDA graph."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.strategy.recorded_step import RecordedStep


class CompileTraining(L.Callback):
    """On a GPU, compiles what the model names in `hot_paths()`: (module, name of a method), run by training alone.

    Evaluation, which meets many lengths, is left as it is. The model also has `loss(tokens, labels)`.
    """

    def __init__(self, enabled: bool = True, cuda_graphs: bool = False):
        """
        Args:
            enabled: compile with torch.compile.
            cuda_graphs: record the training step at the first batch and replay it from then on, as one CUDA graph. For
                models so small that launching their kernels takes longer than running them, on one GPU and without
                gradient accumulation.
        """
        self.enabled = enabled
        self.cuda_graphs = cuda_graphs

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Before a strategy shards the model: what gathers the weights of a block stays out of its compiled code."""
        if stage != "fit" or trainer.strategy.root_device.type != "cuda":
            return
        if self.cuda_graphs and (trainer.world_size > 1 or trainer.accumulate_grad_batches > 1):
            raise MisconfigurationException(
                "compile.cuda_graphs: needs one device and trainer.accumulate_grad_batches 1, "
                f"got {trainer.world_size} and {trainer.accumulate_grad_batches}"
            )
        if self.enabled:
            torch._dynamo.config.optimize_ddp = False  # it would cut the blocks at DDP's buckets
            rank_zero_info("The first step compiles and tunes kernels: minutes on a new machine, seconds later on")
            for module, name in pl_module.hot_paths():  # type: ignore[operator]
                if name not in vars(module):  # else it was compiled for an earlier fit
                    setattr(module, name, torch.compile(getattr(module, name), fullgraph=True, dynamic=False))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.cuda_graphs and pl_module.device.type == "cuda" and not isinstance(pl_module.loss, RecordedStep):
            RecordedStep(trainer, pl_module, batch).install(pl_module)
