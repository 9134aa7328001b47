"""Score the model that a trainer trains."""

from functools import partial
from typing import Any, Protocol

import lightning as L

from callbacks.contract import length_task
from lrnn.evaluate.scoring import PrefixScores, Scores, score, score_prefixes


class Scorer(Protocol):
    def __call__(self, shortest: int, longest: int, samples: int, *, validation: bool = False) -> Scores:
        """Score `samples` sequences of lengths from `shortest` to `longest`."""


class PrefixScorer(Protocol):
    def __call__(self, length: int, samples: int) -> PrefixScores:
        """Score each position of `samples` sequences of one length."""


def scorer(trainer: L.Trainer, model: L.LightningModule, segment: int | None) -> Scorer:
    """Return `lrnn.evaluate.scoring.score` with the trainer's data, device, precision and ranks."""
    return partial(score, model, length_task(trainer), **_options(trainer, model, segment))


def prefix_scorer(trainer: L.Trainer, model: L.LightningModule, segment: int | None) -> PrefixScorer:
    """Return `lrnn.evaluate.scoring.score_prefixes` with the trainer's data, device, precision and ranks."""
    return partial(score_prefixes, model, length_task(trainer), **_options(trainer, model, segment))


def _options(trainer: L.Trainer, model: L.LightningModule, segment: int | None) -> dict[str, Any]:
    return {
        "segment": segment,
        "device": model.device,
        "precision": trainer.precision_plugin.forward_context,
        "rank": trainer.global_rank,
        "ranks": trainer.world_size,
    }
