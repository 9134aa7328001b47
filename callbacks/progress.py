"""A progress bar that does not slow down a GPU."""

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
        self._shown: dict[str, Any] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tokens += batch.inputs.numel()
        last = trainer.global_step == trainer.max_steps
        if last or time.monotonic() - self._updated >= self.every_n_seconds:
            # Lightning has divided the loss; float waits until the GPU has finished all counted batches
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            rate = self._tokens / (time.monotonic() - self._updated)
            self._shown = {"train/loss": loss, "tokens/s": f"{rate:,.0f}"}
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._start_counting()

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
