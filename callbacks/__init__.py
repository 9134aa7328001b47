"""Lightning callbacks: schedule, evaluation, checkpoints."""

from callbacks.checkpoint import ResumableCheckpoint
from callbacks.cosine_warmup import CosineWarmup
from callbacks.length_figure import length_figure
from callbacks.length_generalization import LengthGeneralization
from callbacks.perplexity import Perplexity
from callbacks.scaled_accuracy import ScaledAccuracy
from callbacks.stop_on_non_finite import StopOnNonFinite, TrainingDivergedError

__all__ = [
    "CosineWarmup",
    "LengthGeneralization",
    "Perplexity",
    "ResumableCheckpoint",
    "ScaledAccuracy",
    "StopOnNonFinite",
    "TrainingDivergedError",
    "length_figure",
]
