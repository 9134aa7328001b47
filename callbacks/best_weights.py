"""Keep the weights that worked best on long sequences, not only the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.contract import length_task, members_of
from callbacks.log_values import log_values
from callbacks.scorer import scorer


class BestWeights(L.Callback):
    """Scores the weights at every validation and keeps the best in `checkpoints/best.ckpt` of the run's folder.

    A model that makes no mistake on training lengths keeps changing, and its accuracy on long sequences comes and goes.
    The scores, logged as `length/selection`, are on a validation set with the lengths of the test set and other
    sequences. `LengthGeneralization` writes what the best weights score on the test set.
    """

    def __init__(self, samples: int = 1024, segment: int | None = None):
        """
        Args:
            samples: Number of validation sequences.
            segment: Tokens of a sequence read in one call of the model; 1,024 when absent, and 32 on a CPU.
        """
        for name, value in (("samples", samples), ("segment", segment)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.samples = samples
        self.segment = segment
        self.best: dict[str, Any] = {}  # step and score of the best weights so far
        self.kept_at = -1  # step at which this process kept them, if it did

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            raise MisconfigurationException(
                f"trainer.callbacks: BestWeights keeps the best weights on one device only, got {trainer.world_size}"
            )
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise MisconfigurationException("trainer.callbacks: BestWeights can't read weights in shards, as of fsdp2")
        length_task(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # what is best stands in best.ckpt, which may be younger than the checkpoint that training goes on from
        if trainer.ckpt_path and self._path(trainer).is_file():
            self.best = self._read(trainer)["callbacks"][self.state_key]["best"]
            with self.in_place(trainer, pl_module):  # again, as a resumed run may have other validation sequences
                self.best["selection_scaled_accuracy"] = self._score(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or members_of(trainer).fast_dev_run:
            return
        score = self._score(trainer, pl_module)
        log_values(trainer, {"length/selection": score})
        # of equal scores, keep the weights that were trained longer
        if not self.best or score >= self.best["selection_scaled_accuracy"]:
            self.best = {"step": trainer.global_step, "selection_scaled_accuracy": score}
            self.kept_at = trainer.global_step
            trainer.save_checkpoint(self._path(trainer), weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    @contextmanager
    def in_place(self, trainer: L.Trainer, model: L.LightningModule) -> Iterator[None]:
        """Give the model the best weights for the time of the context."""
        last = {name: weight.clone() for name, weight in model.state_dict().items()}
        model.load_state_dict(self._read(trainer)["state_dict"])
        try:
            yield
        finally:
            model.load_state_dict(last)

    def _score(self, trainer: L.Trainer, model: L.LightningModule) -> float:
        lengths = length_task(trainer).test_lengths
        return scorer(trainer, model, self.segment)(*lengths, self.samples, validation=True).scaled_accuracy

    def _path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir, "checkpoints", "best.ckpt")

    def _read(self, trainer: L.Trainer) -> dict[str, Any]:
        trainer.strategy.checkpoint_io.teardown()  # waits until AsyncCheckpointIO has written what it was given
        return torch.load(self._path(trainer), weights_only=True)
