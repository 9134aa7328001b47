"""A progress bar that a GPU does not have to wait for."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class Progress(RichProgressBar):
    """Shows the training loss, read now and then: Lightning reads what `self.log(..., prog_bar=True)` is given at
    every step, and each time the CPU waits for the GPU."""

    def __init__(self, every_n_seconds: float = 0.5):
        """
        Args:
            every_n_seconds: between two updates.
        """
        super().__init__()
        self.every_n_seconds = every_n_seconds
        self._updated = 0.0
        self._loss: float | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = trainer.global_step == trainer.max_steps
        if last or time.monotonic() - self._updated >= self.every_n_seconds:
            self._loss = float(outputs["loss"])
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._updated = time.monotonic()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        loss = {} if self._loss is None else {"train/loss": self._loss}
        return {**super().get_metrics(trainer, pl_module), **loss}
