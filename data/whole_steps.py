"""Keep training in whole optimizer steps: refuse options that would break one, and resume an epoch at one."""

from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

COUNTS = (
    "accumulate_grad_batches",
    "limit_train_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "log_every_n_steps",
)


def check_steps(trainer: Any) -> None:
    """Check a trainer's options.

    Raises:
        MisconfigurationException: if a number of batches or steps is below 1, if steps would differ in their number of
            samples, or if samples would repeat.
    """
    for name in COUNTS:
        value = getattr(trainer, name, None)
        if isinstance(value, int) and value < 1:
            raise MisconfigurationException(f"trainer.{name}: must be at least 1, got {value}")
    limit, accumulate = trainer.limit_train_batches, trainer.accumulate_grad_batches
    if trainer.overfit_batches:
        raise MisconfigurationException(
            f"trainer.overfit_batches: must be 0, as training samples do not repeat, got {trainer.overfit_batches}"
        )
    if isinstance(limit, int) and limit % accumulate and not trainer.fast_dev_run:
        raise MisconfigurationException(
            "trainer.limit_train_batches: must be a multiple of trainer.accumulate_grad_batches "
            f"({accumulate}), as an epoch ends with a whole step, got {limit}"
        )
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        raise MisconfigurationException(
            "trainer.callbacks: GradientAccumulationScheduler would change the samples of a step; "
            "set trainer.accumulate_grad_batches, and another number when you resume"
        )


def start_at_a_step(trainer: Any) -> None:
    """Correct Lightning's count of the batches of a resumed epoch, which decides where steps and epochs end.

    Lightning takes a step at every multiple of accumulate_grad_batches. The count in a checkpoint may be no multiple,
    if it was made with another accumulate_grad_batches or between two steps. It is rounded down to one. The samples
    are not affected, since they are counted by steps. If the epoch had ended, the count is 0, that of the next epoch;
    otherwise Lightning would run the epoch once more, without a batch.
    """
    progress, limit = trainer.fit_loop.epoch_loop.batch_progress, trainer.limit_train_batches
    for count in (progress.current, progress.total):
        count.ready = count.started = count.processed  # without a batch in which the run was cut off
    before = progress.current.ready
    after = before - before % trainer.accumulate_grad_batches
    if isinstance(limit, int) and 0 < limit <= before and (before > limit or progress.current.completed == before):
        after, progress.is_last_batch = 0, False
    for count in (progress.current, progress.total):
        for name in ("ready", "started", "processed", "completed"):
            setattr(count, name, getattr(count, name) - (before - after))
