"""Compile the training step on a GPU and, for small models, replay it as one CUDA graph."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.contract import TrainedModel, trained_model
from callbacks.strategy.recorded_step import RecordedStep

# of one method: kinds of blocks times lengths of a curriculum. PyTorch's own limit of 8 would end the run
MOST_VARIANTS = 256


def compile_hot_paths(model: TrainedModel) -> None:
    """Replace the methods that the model names in `hot_paths()` by compiled ones.

    Settings of the compiler change for the whole process.
    """
    torch.compiler.reset()  # else the variants of models that this process trained before would count
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    torch._dynamo.config.optimize_ddp = False  # else it would split the blocks at DDP's buckets
    # as without a compiler; else gradients of float32 states would lose 16 bits (pytorch/pytorch#153044)
    torch._functorch.config.backward_pass_autocast = "off"
    # The backward pass must not write over saved tensors. The compiler lets a concatenation and its parts share memory,
    # and writes over the one while the gradient of the other still needs it: gradients of TokenMatrices were wrong.
    torch._functorch.config.donated_buffer = False
    # The key of this cache leaves out the backward pass of an op: a changed op would keep its old gradient
    torch._functorch.config.enable_autograd_cache = False
    for module, name in model.hot_paths():
        if name not in vars(module):  # else an earlier fit compiled it
            setattr(module, name, torch.compile(getattr(module, name), fullgraph=True, dynamic=False))


class CompileTraining(L.Callback):
    """Compiles, on a GPU, the methods that the model names in `hot_paths()`. On a CPU it does nothing.

    Only training calls these methods. Evaluation is not compiled, as it meets sequences of many lengths.
    """

    def __init__(self, enabled: bool = True, cuda_graphs: bool = False):
        """
        Args:
            enabled: Whether to compile with torch.compile.
            cuda_graphs: Whether to record the training step as a CUDA graph at the first batch, and at the first of
                another length, and to replay it from then on. This is for models so small that launching their kernels
                takes longer than running them. It needs one GPU and no gradient accumulation, and can't scale the loss
                as the precision 16-mixed does.
        """
        self.enabled = enabled
        self.cuda_graphs = cuda_graphs

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compile before a strategy shards the model, so that gathering the weights stays outside the compiled code."""
        if stage != "fit" or trainer.strategy.root_device.type != "cuda":
            return
        if self.cuda_graphs and (trainer.world_size > 1 or trainer.accumulate_grad_batches > 1):
            raise MisconfigurationException(
                "compile.cuda_graphs: needs one device and trainer.accumulate_grad_batches 1, "
                f"got {trainer.world_size} and {trainer.accumulate_grad_batches}"
            )
        if self.cuda_graphs and getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise MisconfigurationException(
                "compile.cuda_graphs: must be false with trainer.precision 16-mixed, whose loss scale a recorded step "
                "leaves out"
            )
        if self.enabled:
            rank_zero_info(
                "The first step compiles and tunes kernels. This takes minutes on a new machine and seconds later on"
            )
            compile_hot_paths(trained_model(pl_module))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.cuda_graphs or pl_module.device.type != "cuda":
            return
        recorded = pl_module.loss
        if not isinstance(recorded, RecordedStep) or not recorded.fits(batch):  # a curriculum changes the length
            RecordedStep(trainer, pl_module, batch).install(pl_module)
