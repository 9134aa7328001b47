"""Log numbers of a callback."""

import lightning as L


def log_values(trainer: L.Trainer, values: dict[str, float]) -> None:
    """Write numbers to all loggers of a trainer, at its present step."""
    for logger in trainer.loggers:
        logger.log_metrics(values, trainer.global_step)
