"""Does a model trained on short sequences work on long ones?"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.length_figure import length_figure
from callbacks.scaled_accuracy import ScaledAccuracy

TOKENS = 2**17  # that the model reads at a time, over all rows of a batch


class LengthGeneralization(L.Callback):
    """Scores fixed test sets, one a length, at every validation and once more, with longer ones, at the end.

    Each length is logged as `length/<length>` and all of them as a figure; at the end the numbers are
    written to `length_generalization.json` in the run's folder. Nothing is selected or stopped by them. To select by,
    a score on other sequences of the test set's lengths stands beside them.

    The data module gives `evaluation_batches(shortest, longest, samples, validation, tokens)`, `test_lengths`,
    `test_samples`, `validation_samples`, `train_lengths` and `chance`; the model maps (tokens, state) to (logits,
    state). Sequences are read `segment` tokens at a time with the state carried on, so that the model's memory does not
    grow with the length.
    """

    def __init__(
        self,
        lengths: tuple[int, ...] = (40, 64, 96, 128, 160, 192, 224, 256),
        final_lengths: tuple[int, ...] = (512, 1024, 4096, 16384),
        samples: int = 256,
        segment: int = 1024,
    ):
        """
        Args:
            lengths: scored at every validation.
            final_lengths: scored at the end only, after those.
            samples: sequences a length.
            segment: tokens read at a time.
        """
        for name, values in (("lengths", lengths), ("final_lengths", final_lengths)):
            if any(length < 2 for length in values):
                raise ValueError(f"{name}: every length must be at least 2, got {list(values)}")
        for name, value in (("samples", samples), ("segment", segment)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.lengths = lengths
        self.final_lengths = final_lengths
        self.samples = samples
        self.segment = segment
        self.results: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and trainer.global_step < trainer.max_steps:  # the last step has an evaluation of its own
            self._log(trainer, self._score_lengths(trainer, pl_module, self.lengths))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task = trainer.datamodule  # type: ignore[attr-defined]
        shortest, longest = task.test_lengths
        overall = self._score(trainer, pl_module, shortest, longest, task.test_samples)
        validation = self._score(trainer, pl_module, shortest, longest, task.validation_samples, validation=True)
        curve = self._score_lengths(trainer, pl_module, (*self.lengths, *self.final_lengths))
        self._log(trainer, curve)
        self.results = {
            "test_lengths": [shortest, longest],
            "scaled_accuracy": overall,
            "scaled_accuracy_at": curve,
            "validation_scaled_accuracy": validation,
        }
        folder = trainer.log_dir  # asked for on every rank: Lightning broadcasts it
        if trainer.is_global_zero:
            if trainer.logger:
                trainer.logger.log_metrics({"length/test": overall}, trainer.global_step)
            if folder:
                # renamed into place: where the file is, it is whole, and the run is finished
                written = Path(folder, "length_generalization.json.new")
                written.write_text(json.dumps(self.results, indent=1) + "\n")
                written.replace(Path(folder, "length_generalization.json"))

    def _score_lengths(self, trainer: L.Trainer, model: L.LightningModule, lengths: Iterable[int]) -> dict[int, float]:
        return {n: self._score(trainer, model, n, n, self.samples) for n in lengths}

    @torch.no_grad()
    def _score(
        self,
        trainer: L.Trainer,
        model: L.LightningModule,
        shortest: int,
        longest: int,
        samples: int,
        validation: bool = False,
    ) -> float:
        """Scaled accuracy over `samples` sequences, shared among the ranks."""
        task = trainer.datamodule  # type: ignore[attr-defined]
        metric = ScaledAccuracy(task.chance).to(model.device)
        training = model.training
        model.eval()
        rows = TOKENS // min(longest, self.segment)
        batches = task.evaluation_batches(shortest, longest, samples, validation, tokens=rows * longest)
        for batch in islice(batches, trainer.global_rank, None, trainer.world_size):
            state = None
            for inputs, labels in zip(
                batch.inputs.split(self.segment, 1), batch.labels.split(self.segment, 1), strict=True
            ):
                with trainer.precision_plugin.forward_context():
                    logits, state = model(inputs.to(model.device), state)
                metric.update(logits, labels.to(model.device))
        model.train(training)
        return float(metric.compute())

    def _log(self, trainer: L.Trainer, curve: dict[int, float]) -> None:
        if not (trainer.is_global_zero and trainer.logger):
            return
        trainer.logger.log_metrics({f"length/{n}": value for n, value in curve.items()}, trainer.global_step)
        writer: Any = getattr(trainer.logger, "experiment", None)
        if hasattr(writer, "add_figure"):
            longest_trained = trainer.datamodule.train_lengths[1]  # type: ignore[attr-defined]
            figure = length_figure({"this run": [curve]}, longest_trained)
            writer.add_figure("length_generalization", figure, trainer.global_step)
