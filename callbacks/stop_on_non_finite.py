"""Stop a run whose loss is NaN or infinite."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


class TrainingDivergedError(RuntimeError):
    """The loss was not finite."""


class StopOnNonFinite(L.Callback):
    """Raises TrainingDivergedError if a loss is not finite.

    Losses stay on their device and are checked every `every_n_steps`, so that the CPU does not wait for the GPU at each
    step.
    """

    def __init__(self, every_n_steps: int = 50):
        """
        Args:
            every_n_steps: Optimizer steps between two checks.
        """
        self.every_n_steps = every_n_steps
        self._losses: list[Tensor] = []  # since the last check

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            losses, self._losses = self._losses, []
            count = int((~torch.stack(losses).isfinite()).sum())
            if count:
                raise TrainingDivergedError(
                    f"the loss was not finite in {count} of the last {len(losses)} batches, up to step {step}; "
                    "lower model.learning_rate or set trainer.gradient_clip_val"
                )
