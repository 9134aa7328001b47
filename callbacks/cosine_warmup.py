"""Learning-rate schedule: linear warm-up, then half a cosine down to a minimum."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.contract import members_of
from callbacks.log_values import log_values


class CosineWarmup(L.Callback):
    """Sets the learning rate of every parameter group before each step, as a pure function of the step.

    The peak is the learning rate that the optimizer was made with. There is no state to save, so a resumed run follows
    the same curve.
    """

    def __init__(self, warmup: float = 0.1, min_lr: float = 1e-6):
        """
        Args:
            warmup: Steps of linear warm-up, or a fraction of all steps if below 1.
            min_lr: Learning rate after the last step, at most that of the model.
        """
        if warmup < 0:
            raise ValueError(f"schedule.warmup: must be at least 0, got {warmup}")
        if min_lr < 0:
            raise ValueError(f"schedule.min_lr: must be at least 0, got {min_lr}")
        self.warmup = warmup
        self.min_lr = min_lr
        self._logged = -1  # step whose rate was logged last

    def rate(self, peak: float, step: int, total: int) -> float:
        """Return the learning rate of step number `step` of `total`, counted from 0."""
        warmup = self.warmup * total if self.warmup < 1 else self.warmup
        if step < warmup:
            return peak * min(1.0, (step + 1) / warmup)
        progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
        return self.min_lr + (peak - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.warmup >= 1 and self.warmup >= trainer.max_steps:
            rank_zero_info(
                f"schedule.warmup: {self.warmup:g} steps, of {trainer.max_steps} steps in all; the learning rate does "
                "not reach model.learning_rate"
            )
        for optimizer in trainer.optimizers:  # the optimizer state of a checkpoint, which is read later, has it too
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
                if self.min_lr > group["lr"]:
                    raise MisconfigurationException(
                        f"schedule.min_lr: must be at most model.learning_rate ({group['lr']:g}), got {self.min_lr:g}"
                    )

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(group["peak_lr"], step, total)
        # once a step, which may have several batches; pl_module.log would copy the number to the GPU and wait
        if trainer.loggers and step != self._logged and (step + 1) % members_of(trainer).log_every_n_steps == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            log_values(trainer, {"train/learning_rate": rate})
            self._logged = step
