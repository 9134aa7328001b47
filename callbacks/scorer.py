"""Score the model that a trainer trains."""

from functools import partial
from typing import Protocol

import lightning as L

from callbacks.contract import length_task
from lrnn.evaluate.scoring import Scores, score


class Scorer(Protocol):
    def __call__(self, shortest: int, longest: int, samples: int, *, validation: bool = False) -> Scores:
        """Score `samples` sequences of lengths from `shortest` to `longest`."""


def scorer(trainer: L.Trainer, model: L.LightningModule, segment: int | None) -> Scorer:
    """Return `lrnn.evaluate.scoring.score` with the trainer's data, device, precision and ranks."""
    return partial(
        score,
        model,
        length_task(trainer),
        segment=segment,
        device=model.device,
        precision=trainer.precision_plugin.forward_context,
        rank=trainer.global_rank,
        ranks=trainer.world_size,
    )
