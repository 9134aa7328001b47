"""Does a long context help, or at least not harm, a language model that was trained on short rows?"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.contract import members_of
from callbacks.dashboard.card import log_figure
from callbacks.log_values import log_values
from lrnn.evaluate.perplexity_figure import perplexity_figure
from lrnn.evaluate.perplexity_scoring import score_perplexity
from lrnn.evaluate.record import write_record


@runtime_checkable
class LongText(Protocol):
    """A data module of text that has sequences longer than its training rows, as `data.FineWeb`."""

    def validation_sequences(self, length: int, most: int) -> Tensor:
        """Return at most `most` sequences (N, length + 1) of token ids, the same at every call."""


class PerplexityByLength(L.Callback):
    """Scores sequences of the validation split up to and at each length, at every validation.

    Each value is logged as `perplexity_up_to/<length>` or `perplexity_at/<length>`, and all of them as a figure. The
    last ones are written to `perplexity_by_length.json` in the run's folder. The state is carried from segment to
    segment, so memory does not grow with the length (except with attention). With several ranks, each scores all
    sequences.
    """

    def __init__(
        self,
        lengths: tuple[int, ...] = (256, 1024, 2048, 4096, 16384, 65536),
        sequences: int = 4,
        segment: int = 2048,
    ):
        """
        Args:
            lengths: Lengths to score at, in tokens.
            sequences: Largest number of sequences of the longest length.
            segment: Tokens of a sequence read in one call of the model.
        """
        if not lengths:
            raise ValueError("lengths: must have at least one length, got []")
        for name, value in (("lengths", min(lengths)), ("sequences", sequences), ("segment", segment)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.lengths = lengths
        self.sequences = sequences
        self.segment = segment
        self.results: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._sequences(trainer)  # too few tokens are an error before the first step

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        scores = score_perplexity(
            pl_module,
            self._sequences(trainer),
            self.lengths,
            segment=self.segment,
            device=pl_module.device,
            precision=trainer.precision_plugin.forward_context,
        )
        self.results = {"step": trainer.global_step, **scores.as_record()}
        if trainer.is_global_zero:
            write_record(Path(trainer.default_root_dir, "perplexity_by_length.json"), self.results)
            self._log(trainer, scores)

    def _sequences(self, trainer: L.Trainer) -> Tensor:
        data = members_of(trainer).datamodule
        if not isinstance(data, LongText):
            raise MisconfigurationException(
                "trainer.callbacks: PerplexityByLength needs a data module with validation_sequences, such as "
                f"data.FineWeb; {type(data).__name__} has none"
            )
        return data.validation_sequences(max(self.lengths), self.sequences)

    def _log(self, trainer: L.Trainer, scores: Any) -> None:
        if not trainer.loggers:
            return
        values = {f"perplexity_up_to/{n}": value for n, value in scores.running_at.items()}
        values |= {f"perplexity_at/{n}": value for n, value in scores.position_at.items()}
        log_values(trainer, values)
        context = getattr(members_of(trainer).datamodule, "context", None)
        figure = perplexity_figure({"validation": {"this run": scores}}, {"this run": context})
        log_figure(trainer, "perplexity_by_length", figure)
