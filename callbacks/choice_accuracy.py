"""Accuracy among choices, by family and length, at the end of training."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.contract import members_of
from callbacks.log_values import log_values
from lrnn.evaluate.choices import ChoiceTask, accuracy_record, score_choices
from lrnn.evaluate.record import write_record


class ChoiceAccuracy(L.Callback):
    """Scores the questions of the data module at the end, and how often the right choice is the likeliest.

    Each accuracy is logged as `choices/<family>/<length>`, and all are written to `choice_accuracy.json` in the run's
    folder. The scores select nothing. In a sweep, list this callback before `LengthGeneralization`, whose file says
    that a run is finished.
    """

    def __init__(self, lengths: Sequence[int] = (2, 4, 8, 16, 32, 64, 128), samples: int = 100, segment: int = 1024):
        """
        Args:
            lengths: Lengths of the questions.
            samples: Number of questions of each family and length.
            segment: Tokens of a question read in one call of the model, with the state carried on to the next.
        """
        if not lengths:
            raise ValueError("lengths: must have at least one length, got []")
        for name, value in (("lengths", min(lengths)), ("samples", samples), ("segment", segment)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.lengths = lengths
        self.samples = samples
        self.segment = segment

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        _choice_task(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score on every rank, since all ranks of a sharded model must call it; the first one writes."""
        questions = _choice_task(trainer).questions(self.lengths, self.samples)
        precision = trainer.precision_plugin.forward_context
        scores = score_choices(pl_module, questions, segment=self.segment, device=pl_module.device, precision=precision)
        if not trainer.is_global_zero:
            return
        record = accuracy_record(questions, scores)
        write_record(Path(trainer.default_root_dir, "choice_accuracy.json"), record)
        values = {
            f"choices/{family}/{length}": accuracy
            for family, one in record["families"].items()
            for length, accuracy in one["accuracy_at"].items()
        }
        log_values(trainer, values)


def _choice_task(trainer: L.Trainer) -> ChoiceTask:
    data = members_of(trainer).datamodule
    if not isinstance(data, ChoiceTask):
        raise MisconfigurationException(
            "trainer.callbacks: ChoiceAccuracy needs a data module with questions, such as data.StateTrackingText; "
            f"{type(data).__name__} has none"
        )
    return data
