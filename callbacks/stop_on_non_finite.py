"""A loss that is NaN or infinite stops the run; it is never skipped in silence."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


class TrainingDivergedError(RuntimeError):
    """The loss was not finite."""


class StopOnNonFinite(L.Callback):
    """Counts non-finite losses on the device and looks at the count now and then, to spare the GPU a wait."""

    def __init__(self, every_n_steps: int = 50):
        self.every_n_steps = every_n_steps
        self._count: Tensor | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        non_finite = (~torch.isfinite(outputs["loss"].detach())).long()
        self._count = non_finite if self._count is None else self._count + non_finite
        step = trainer.global_step
        if (step % self.every_n_steps == 0 or step == trainer.max_steps) and int(self._count):
            raise TrainingDivergedError(
                f"the loss was not finite in {int(self._count)} batches up to step {step}; "
                "lower model.learning_rate or set trainer.gradient_clip_val"
            )
