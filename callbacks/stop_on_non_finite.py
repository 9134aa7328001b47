"""Stop a run whose loss or weights are NaN or infinite, before such weights are saved."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

ADVICE = "lower model.learning_rate or set trainer.gradient_clip_val"


class TrainingDivergedError(RuntimeError):
    """The loss or a weight was not finite."""


class StopOnNonFinite(L.Callback):
    """Raises TrainingDivergedError on all ranks if a loss or a weight of any rank is not finite.

    Losses stay on their device and are checked every `every_n_steps`, so that the CPU does not wait for the GPU at each
    step. Weights are checked whenever a checkpoint is about to be written, by whichever callback, and at the end.
    """

    def __init__(self, every_n_steps: int = 50):
        """
        Args:
            every_n_steps: Optimizer steps between two checks of the losses.

        Raises:
            ValueError: if it is below 1.
        """
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._losses: list[Tensor] = []  # since the last check
        self._step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        step, before = trainer.global_step, self._step
        self._step = step
        if step != before and (step % self.every_n_steps == 0 or step == trainer.max_steps):
            losses, self._losses = self._losses, []
            bad = (~torch.stack(losses).isfinite()).sum()
            count = int(trainer.strategy.reduce(bad, reduce_op="sum"))
            if count:
                batches = len(losses) * trainer.world_size
                raise TrainingDivergedError(
                    f"the loss was not finite in {count} of the last {batches} batches, up to step {step}; {ADVICE}"
                )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the last update before the weights are evaluated for the last time."""
        self._check_weights(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        if not trainer.strategy.reduce_boolean_decision(weights_are_finite(model)):
            raise TrainingDivergedError(
                f"a weight was not finite after step {trainer.global_step}, so it was not saved; {ADVICE}"
            )


@torch.no_grad()
def weights_are_finite(model: torch.nn.Module) -> bool:
    """Return whether all parameters that this rank holds are finite, waiting for the GPU once."""
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    largest = torch.nn.utils.get_total_norm([part for part in parts if part.numel()], norm_type=torch.inf)
    return bool(largest.isfinite())
