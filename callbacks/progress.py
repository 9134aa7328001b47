"""A progress bar that does not slow down a GPU."""

import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class Progress(RichProgressBar):
    """Shows the training loss and the tokens per second of this process.

    It reads the loss every `every_n_seconds`. A loss logged with `self.log(..., prog_bar=True)` would be read at every
    step, and each time the CPU would wait for the GPU.
    """

    def __init__(self, every_n_seconds: float = 0.5):
        """
        Args:
            every_n_seconds: Seconds between two updates.
        """
        super().__init__()
        self.every_n_seconds = every_n_seconds
        self._updated = 0.0
        self._tokens = 0
        self._batches = 0  # of this epoch
        self._shown: dict[str, Any] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tokens += batch.inputs.numel()
        self._batches = batch_idx + 1
        last = trainer.global_step == trainer.max_steps
        if last or time.monotonic() - self._updated >= self.every_n_seconds:
            # Lightning has divided the loss; float waits until the GPU has finished all counted batches
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            rate = self._tokens / (time.monotonic() - self._updated)
            self._shown = {"train/loss": loss, "tokens/s": f"{rate:,.0f}"}
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._start_counting()

    @property
    def total_train_batches(self) -> int | float:
        """Number of batches from the start of the epoch to its end or, if that comes first, to the last step.

        Lightning counts the steps that are left, also where a step has several batches or the run has been resumed.
        """
        trainer = self.trainer
        batches = trainer.accumulate_grad_batches
        ended = self._batches - self._batches % batches  # those of the steps that have ended
        left = (trainer.max_steps - trainer.global_step) * batches if trainer.max_steps >= 0 else math.inf
        return min(trainer.num_training_batches, ended + left)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.fit_loop.epoch_loop
        self._batches = epoch.batch_progress.current.ready if epoch.restarting else 0
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start_counting()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._start_counting()

    def _start_counting(self) -> None:
        self._tokens, self._updated = 0, time.monotonic()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return {**super().get_metrics(trainer, pl_module), **self._shown}
