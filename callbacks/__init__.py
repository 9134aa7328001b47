"""Lightning callbacks: learning-rate schedule, evaluation, checkpoints, compilation and measurement."""

from callbacks.activation_checkpointing import ActivationCheckpointing
from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from callbacks.best_weights import BestWeights
from callbacks.checkpoint import ResumableCheckpoint
from callbacks.compile_training import CompileTraining
from callbacks.cosine_warmup import CosineWarmup
from callbacks.length_generalization import LengthGeneralization
from callbacks.perplexity import Perplexity
from callbacks.perplexity_by_length import PerplexityByLength
from callbacks.progress import Progress
from callbacks.spectrum import Spectrum
from callbacks.stop_on_non_finite import StopOnNonFinite, TrainingDivergedError
from callbacks.strategy.fully_sharded import FullySharded
from callbacks.throughput import Throughput

__all__ = [
    "ActivationCheckpointing",
    "AtomicCheckpointIO",
    "BestWeights",
    "CompileTraining",
    "CosineWarmup",
    "FullySharded",
    "LengthGeneralization",
    "Perplexity",
    "PerplexityByLength",
    "Progress",
    "ResumableCheckpoint",
    "Spectrum",
    "StopOnNonFinite",
    "Throughput",
    "TrainingDivergedError",
]
