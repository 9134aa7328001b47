"""Does a model trained on short sequences work on long ones?"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lrnn.evaluate.length_figure import length_figure
from lrnn.evaluate.metrics import ScaledAccuracy

TOKENS = 2**17  # that the model reads at a time, over all rows of a batch


class LengthGeneralization(L.Callback):
    """Scores fixed test sets, one a length, at every validation and once more, with longer ones, at the end.

    Each length is logged as `length/<length>` and all of them as a figure; at the end the numbers are
    written to `length_generalization.json` in the run's folder. Nothing is selected or stopped by them. To select by,
    a score on other sequences of the test set's lengths, a validation set, stands beside them.

    A model that makes no more mistakes on training lengths goes on changing, and on long sequences comes and goes with
    it. So with `selection_samples` the weights are scored on that validation set at every validation, logged as
    `length/selection`, and the best are kept in `checkpoints/best.ckpt`. What they score on the test set is written
    beside the score of the last weights, as `best_checkpoint`.

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
        selection_samples: int = 0,
    ):
        """
        Args:
            lengths: scored at every validation.
            final_lengths: scored at the end only, after those.
            samples: sequences a length.
            segment: tokens read at a time.
            selection_samples: sequences by which to keep the best weights; 0 for keeping the last alone.
        """
        for name, values in (("lengths", lengths), ("final_lengths", final_lengths)):
            if any(length < 2 for length in values):
                raise ValueError(f"{name}: every length must be at least 2, got {list(values)}")
        for name, value, least in (
            ("samples", samples, 1),
            ("segment", segment, 1),
            ("selection_samples", selection_samples, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        self.lengths = lengths
        self.final_lengths = final_lengths
        self.samples = samples
        self.segment = segment
        self.selection_samples = selection_samples
        self.best: dict[str, Any] = {}  # its step and score so far
        self.results: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.selection_samples and trainer.world_size > 1:
            raise MisconfigurationException(
                f"selection_samples: must be 0 on more than one device, got {self.selection_samples}"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # what the file says, as it may be younger than the checkpoint that is continued
        if self.selection_samples and trainer.ckpt_path and self._best_path(trainer).is_file():
            self.best = self._read_best(trainer)["callbacks"][self.state_key]["best"]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self.selection_samples:
            self._keep_if_best(trainer, pl_module)
        if trainer.global_step < trainer.max_steps:  # the last step has an evaluation of its own
            self._log(trainer, self._score_lengths(trainer, pl_module, self.lengths))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task = trainer.datamodule  # type: ignore[attr-defined]
        validation = self._score_on_validation_set(trainer, pl_module, task.validation_samples)
        scores = self._score_on_test_set(trainer, pl_module)
        self._log(trainer, scores["scaled_accuracy_at"])
        self.results = {"test_lengths": list(task.test_lengths), **scores, "validation_scaled_accuracy": validation}
        if self.best:
            is_last = self.best["step"] == trainer.global_step
            self.results["best_checkpoint"] = self.best | (scores if is_last else self._score_best(trainer, pl_module))
        folder = trainer.log_dir  # asked for on every rank: Lightning broadcasts it
        if trainer.is_global_zero:
            if trainer.logger:
                trainer.logger.log_metrics({"length/test": scores["scaled_accuracy"]}, trainer.global_step)
            if folder:
                # renamed into place: where the file is, it is whole, and the run is finished
                written = Path(folder, "length_generalization.json.new")
                written.write_text(json.dumps(self.results, indent=1) + "\n")
                written.replace(Path(folder, "length_generalization.json"))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def _keep_if_best(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        score = self._score_on_validation_set(trainer, model, self.selection_samples)
        if trainer.logger:
            trainer.logger.log_metrics({"length/selection": score}, trainer.global_step)
        # of equals, the one trained longer
        if not self.best or score >= self.best["selection_scaled_accuracy"]:
            self.best = {"step": trainer.global_step, "selection_scaled_accuracy": score}
            trainer.save_checkpoint(self._best_path(trainer))

    def _score_best(self, trainer: L.Trainer, model: L.LightningModule) -> dict[str, Any]:
        last = {name: weight.clone() for name, weight in model.state_dict().items()}
        model.load_state_dict(self._read_best(trainer)["state_dict"])
        scores = self._score_on_test_set(trainer, model)
        model.load_state_dict(last)
        return scores

    def _best_path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.log_dir or trainer.default_root_dir, "checkpoints", "best.ckpt")

    def _read_best(self, trainer: L.Trainer) -> dict[str, Any]:
        return torch.load(self._best_path(trainer), weights_only=True)

    def _score_on_test_set(self, trainer: L.Trainer, model: L.LightningModule) -> dict[str, Any]:
        task = trainer.datamodule  # type: ignore[attr-defined]
        shortest, longest = task.test_lengths
        return {
            "scaled_accuracy": self._score(trainer, model, shortest, longest, task.test_samples),
            "scaled_accuracy_at": self._score_lengths(trainer, model, (*self.lengths, *self.final_lengths)),
        }

    def _score_on_validation_set(self, trainer: L.Trainer, model: L.LightningModule, samples: int) -> float:
        shortest, longest = trainer.datamodule.test_lengths  # type: ignore[attr-defined]
        return self._score(trainer, model, shortest, longest, samples, validation=True)

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
