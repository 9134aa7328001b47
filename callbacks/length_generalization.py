"""Does a model that was trained on short sequences work on long ones?"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.best_weights import BestWeights
from callbacks.contract import length_task, members_of
from callbacks.dashboard.card import log_figure
from callbacks.log_values import log_values
from callbacks.scorer import prefix_scorer, scorer
from lrnn.evaluate.length_figure import length_figure, prefix_figure
from lrnn.evaluate.record import write_record
from lrnn.evaluate.scoring import PrefixScores, Scores, as_record


class LengthGeneralization(L.Callback):
    """Scores fixed test sequences of each length at every validation, and of more lengths at the end.

    Each length is logged as `length/<length>`, and all of them as a figure. At the end the whole test set is scored
    too, logged as `length/test`, and the numbers are written to `length_generalization.json` in the run's folder. These
    scores select nothing and stop nothing. To select a recipe by, the file also holds a score on a validation set:
    other sequences of the test set's lengths.

    With `prefix_length`, each position t of sequences of that length is scored too, as in the paper's Figure 4: the
    share of the labels at t that are right, and of the sequences whose labels up to t are all right. Both are logged as
    `label_accuracy/<t>` and `sequence_accuracy/<t>` for some t, drawn for all, and written as `prefixes`.

    If `BestWeights` is among the callbacks, the file holds its step and scores as `best_checkpoint`. If a finished run
    is trained for longer, the file of step N is kept as `length_generalization_N.json`.
    """

    def __init__(
        self,
        lengths: tuple[int, ...] = (40, 64, 96, 128, 160, 192, 224, 256),
        final_lengths: tuple[int, ...] = (512, 1024, 4096, 16384),
        samples: int = 256,
        segment: int | None = None,
        prefix_length: int | None = None,
    ):
        """
        Args:
            lengths: Lengths scored at every validation.
            final_lengths: Lengths scored at the end only, after the others.
            samples: Number of sequences of each length.
            segment: Tokens of a sequence read in one call of the model, with the state carried on to the next, so that
                memory does not grow with the length; 1,024 when absent, and 32 on a CPU, which is faster there.
            prefix_length: Length of the sequences that are scored at each of their positions, `samples` of them at
                every validation and as many as the test set has at the end; none when absent.
        """
        if prefix_length is not None and prefix_length < 2:
            raise ValueError(f"prefix_length: must be at least 2, got {prefix_length}")
        for name, values in (("lengths", lengths), ("final_lengths", final_lengths)):
            if any(length < 1 for length in values):
                raise ValueError(f"{name}: every length must be at least 1, got {list(values)}")
        for name, value in (("samples", samples), ("segment", segment)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.lengths = lengths
        self.final_lengths = final_lengths
        self.samples = samples
        self.segment = segment
        self.prefix_length = prefix_length
        self.results: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse lengths that the task does not have now, and not after hours of training."""
        task = length_task(trainer)
        shortest = min(filter(None, (*self.lengths, *self.final_lengths, self.prefix_length)), default=None)
        if shortest is not None:
            try:
                next(iter(task.evaluation_batches(shortest, shortest, 1)))
            except ValueError as error:
                raise MisconfigurationException(str(error)) from error

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        path = self._path(trainer)
        if trainer.is_global_zero and path.exists():  # of the weights so far
            path.rename(path.with_stem(f"{path.stem}_{trainer.global_step}"))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if trainer.global_step < trainer.max_steps:  # the last step is evaluated in on_train_end
            scores = self._score_lengths(trainer, pl_module, self.lengths)
            self._log(trainer, {length: one.scaled_accuracy for length, one in scores.items()})
            self._score_prefixes(trainer, pl_module, self.samples)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task = length_task(trainer)
        score = scorer(trainer, pl_module, self.segment)
        validation = score(*task.test_lengths, task.validation_samples, validation=True)
        record = self._score_test_set(trainer, pl_module)
        self._log(trainer, record["scaled_accuracy_at"])
        self.results = {
            "step": trainer.global_step,
            "test_lengths": list(task.test_lengths),
            **record,
            "validation_scaled_accuracy": validation.scaled_accuracy,
            **self._score_prefixes(trainer, pl_module, task.test_samples),
            **self._best_checkpoint(trainer, pl_module, record),
        }
        if trainer.is_global_zero:
            log_values(trainer, {"length/test": record["scaled_accuracy"]})
            where = ""
            if not members_of(trainer).fast_dev_run:
                path = self._path(trainer)
                write_record(path, self.results)  # a run that has this file is finished
                where = f"; written to {path}"
            rank_zero_info(_summary(self.results) + where)

    def _path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir, "length_generalization.json")

    def _score_prefixes(self, trainer: L.Trainer, model: L.LightningModule, samples: int) -> dict[str, Any]:
        if self.prefix_length is None:
            return {}
        scores = prefix_scorer(trainer, model, self.segment)(self.prefix_length, samples)
        if trainer.is_global_zero and trainer.loggers:
            self._log_prefixes(trainer, scores)
        return {"prefixes": {"length": self.prefix_length, "samples": samples, **vars(scores)}}

    def _log_prefixes(self, trainer: L.Trainer, scores: PrefixScores) -> None:
        curves = {
            name: dict(zip(scores.positions, getattr(scores, name), strict=True))
            for name in ("accuracy", "sequence_accuracy")
        }
        last = scores.positions[-1]
        shown = [t for t in scores.positions if t == last or t & (t - 1) == 0]
        values = {f"sequence_accuracy/{t}": curves["sequence_accuracy"][t] for t in shown}
        values |= {f"label_accuracy/{t}": curves["accuracy"][t] for t in shown}
        assert self.prefix_length is not None
        log_values(trainer, values)
        longest = last * length_task(trainer).train_lengths[1] / self.prefix_length
        drawn = {"labels up to t": [curves["sequence_accuracy"]], "label at t": [curves["accuracy"]]}
        figure = prefix_figure(drawn, longest)
        figure.axes[0].set_ylabel("share that is right")
        log_figure(trainer, "accuracy_at_each_token", figure)

    def _best_checkpoint(self, trainer: L.Trainer, model: L.LightningModule, of_last: dict[str, Any]) -> dict[str, Any]:
        best = next((callback for callback in members_of(trainer).callbacks if isinstance(callback, BestWeights)), None)
        if best is None or not best.best:
            return {}
        if best.kept_at == trainer.global_step:
            return {"best_checkpoint": best.best | of_last}
        with best.in_place(trainer, model):
            return {"best_checkpoint": best.best | self._score_test_set(trainer, model)}

    def _score_test_set(self, trainer: L.Trainer, model: L.LightningModule) -> dict[str, Any]:
        task = length_task(trainer)
        test = scorer(trainer, model, self.segment)(*task.test_lengths, task.test_samples)
        return as_record(test, self._score_lengths(trainer, model, (*self.lengths, *self.final_lengths)))

    def _score_lengths(self, trainer: L.Trainer, model: L.LightningModule, lengths: Iterable[int]) -> dict[int, Scores]:
        score = scorer(trainer, model, self.segment)
        return {length: score(length, length, self.samples) for length in lengths}

    def _log(self, trainer: L.Trainer, curve: Mapping[int, float]) -> None:
        if not (trainer.is_global_zero and trainer.loggers):
            return
        log_values(trainer, {f"length/{n}": value for n, value in curve.items()})
        figure = length_figure({"this run": [curve]}, length_task(trainer).train_lengths[1])
        log_figure(trainer, "length_generalization", figure)


def _summary(results: Mapping[str, Any]) -> str:
    """Say the scores in one line."""
    shortest, longest = results["test_lengths"]
    at = "".join(f", {score:.3f} at {length:,}" for length, score in results["scaled_accuracy_at"].items())
    return (
        f"scaled accuracy: {results['scaled_accuracy']:.3f} on the test set (lengths {shortest:,} to {longest:,}){at}"
    )
