"""Checkpoints from which a run can be resumed, also after Ctrl-C, SIGTERM or SIGUSR1."""

import signal
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.agreed_stop import AgreedStop
from callbacks.contract import members_of


class ResumableCheckpoint(Checkpoint):
    """Saves `last.ckpt` every `every_n_steps`, at the end, and when a signal asks the run to stop.

    After SIGINT (Ctrl-C), SIGTERM or SIGUSR1 all ranks finish the step in progress, save, and stop, even if one rank
    alone was signalled. A second signal ends the process at once. The process raises KeyboardInterrupt after SIGINT,
    and ends with the status 128 + signal, such as 143, after the others. A signal during a validation waits for its
    end.

    A checkpoint is saved before the validation of its step, if one is due. A run that resumes from it validates first.
    A run that resumes at its last step calls `on_train_end` of all callbacks, so it does its last evaluation again.
    """

    def __init__(self, dirpath: str, every_n_steps: int):
        """
        Args:
            dirpath: Folder of the checkpoints.
            every_n_steps: Optimizer steps between two checkpoints.
        """
        self.path = Path(dirpath, "last.ckpt")
        self.every_n_steps = every_n_steps
        self._step = 0  # the last optimizer step that has ended
        self._stop: AgreedStop | None = None
        self._validation_due = False  # at the step of the last checkpoint
        self._trained = False

    def state_dict(self) -> dict[str, Any]:
        return {"validation_due": self._validation_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validation_due = state_dict["validation_due"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._trained = False

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._receive_signals(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step
        self._trained = True
        self._receive_signals(trainer)
        self._validate_if_due(trainer)

    def _receive_signals(self, trainer: L.Trainer) -> None:
        """Take the signals from Lightning, whose handlers stop without a checkpoint, or under Slurm start the job anew.

        Lightning sets its handlers just before the first of the hooks that call this.
        """
        if self._stop is None:
            self._stop = AgreedStop(trainer.global_rank, trainer.world_size)
        self._stop.open(trainer.global_step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Values are logged at this step. Where a run goes on that ended with a validation, Lightning's is one too high.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._step:  # only gradients were accumulated
            return
        self._step = step
        assert self._stop is not None
        number = self._stop.after_step(step)
        last = step >= trainer.max_steps > 0
        if number is not None or last or step % self.every_n_steps == 0:
            self._validation_due = _validation_is_due(trainer)
            self._save(trainer)
        if number is not None and not last:
            self._leave(trainer, signal.Signals(number))

    def _leave(self, trainer: L.Trainer, number: signal.Signals) -> None:
        rank_zero_info(f"{number.name}: stopped after step {self._step}; continue with --resume=true")
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, LightningEnvironment) and trainer.local_rank > 0:
            raise SystemExit(0)  # the process that started this one kills itself if this one fails
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_due = False
        self._save(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the training of a run that resumed at its last step, for which Lightning calls no hook of training."""
        if self._trained:
            return
        self._validate_if_due(trainer)
        for callback in members_of(trainer).callbacks:
            callback.on_train_end(trainer, pl_module)

    def _validate_if_due(self, trainer: L.Trainer) -> None:
        """Run the validation that Lightning skips where it resumes, after the batch at which it was due."""
        if not self._validation_due:
            return
        self._validation_due = False
        loop = trainer.fit_loop.epoch_loop.val_loop
        trainer.validating = True
        loop.restarting = False
        loop.run()
        trainer.training = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._ignore_signals()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._ignore_signals()  # Lightning does not call teardown

    def _ignore_signals(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop.close()

    def _save(self, trainer: L.Trainer) -> None:
        """Save, or raise the first rank's OSError on all ranks, such as that of a full disk."""
        if members_of(trainer).fast_dev_run:
            return
        problem = None
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        except OSError as error:
            problem = error
            trainer.strategy.barrier()  # the one at the end of save_checkpoint, in which other ranks may wait
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise problem


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Return whether Lightning validates after the batch that has just ended."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return loop._should_check_val_fx(fetcher)
