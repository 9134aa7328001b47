"""Checkpoints from which a run can be resumed, also after Ctrl-C."""

import signal
import threading
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class ResumableCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` every `every_n_steps`, at the end, and on Ctrl-C.

    After Ctrl-C the step in progress is finished, so that the checkpoint holds a whole number of steps. A second Ctrl-C
    stops at once. The last step is saved only after `on_train_end` of the other callbacks, because Lightning would not
    call it again in a run that resumes at the last step. So a run that is cut off in its last evaluation resumes a
    little before it and evaluates again.
    """

    def __init__(self, dirpath: str, every_n_steps: int):
        """
        Args:
            dirpath: Folder of the checkpoints.
            every_n_steps: Optimizer steps between two checkpoints.
        """
        super().__init__(
            dirpath=dirpath, filename="last", every_n_train_steps=every_n_steps, enable_version_counter=False
        )
        self._stop_asked = False
        self._previous_handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._ask_to_stop)

    def _ask_to_stop(self, *_: Any) -> None:
        if self._stop_asked:
            raise KeyboardInterrupt
        self._stop_asked = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= trainer.max_steps:
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._stop_asked and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(f"{self.dirpath}/last.ckpt")
