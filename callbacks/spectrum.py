"""Eigenvalues of the state transitions while a model trains."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.log_values import log_values
from lrnn.evaluate.metrics import IGNORE
from lrnn.theory.spectra import Summary, summarize, transitions


class Spectrum(L.Callback):
    """Logs the eigenvalues of all layers on a piece of the batch every `every` optimizer steps:

    - `eigenvalues/least`: least real part
    - `eigenvalues/share_negative`: share that is real and negative; with the range [0, 1] it is 0
    - `eigenvalues/share_complex`, `eigenvalues/share_complex_of_products`: share that is not real, of single
      transitions and of products over `window` tokens
    - `eigenvalues/distance_from_1`: mean of | |eigenvalue| - 1 |
    - `eigenvalues/horizon`: tokens after which the slowest part of the state has fallen to half, as the eigenvalues
      predict; only parts that change their sign count, if there are any (lrnn/theory/spectra.py)
    - a histogram of the real parts of each layer, as `eigenvalues/<layer>`
    """

    def __init__(self, every: int = 100, sequences: int = 2, tokens: int = 256, window: int = 2):
        """
        Args:
            every: Optimizer steps between two measurements.
            sequences: Sequences of the batch that are read.
            tokens: Tokens of each of them that are read.
            window: Tokens of a product.
        """
        for name, value in (("every", every), ("sequences", sequences), ("tokens", tokens), ("window", window)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        if window > tokens:
            raise ValueError(f"window: must be at most tokens ({tokens}), got {window}")
        self.every, self.sequences, self.tokens, self.window = every, sequences, tokens, window
        self._step = 0  # the last optimizer step that has ended

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not any(hasattr(module, "transitions") for module in pl_module.modules()):
            name = type(pl_module).__name__
            raise MisconfigurationException(
                f"trainer.callbacks: Spectrum needs a layer with a linear state transition, {name} has none"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, before = trainer.global_step, self._step
        self._step = step
        if step == before or step % self.every:  # if it is as before, only gradients were accumulated
            return
        tokens = batch.inputs[: self.sequences, : self.tokens]
        read = _before_padding(batch.labels)[: self.sequences, : self.tokens]
        with trainer.precision_plugin.forward_context():  # on all ranks, which may hold a shard of the weights each
            found = transitions(pl_module, tokens)
        if not trainer.is_global_zero:
            return
        values = {name: one.eigenvalues() for name, one in found.items()}
        window = min(self.window, tokens.shape[1])
        count = tokens.shape[1] // window
        inside = read[:, : count * window].unflatten(1, (count, window)).all(-1)
        products = [one.over(window).eigenvalues() for one in found.values()]
        of_products = summarize(products, inside) if bool(inside.any()) else None
        self._log(trainer, summarize(list(values.values()), read), of_products)
        self._log_histograms(trainer, values, read)

    def _log(self, trainer: L.Trainer, single: Summary, products: Summary | None) -> None:
        record = {f"eigenvalues/{name}": value for name, value in vars(single).items()}
        if products is not None:
            record["eigenvalues/share_complex_of_products"] = products.share_complex
        log_values(trainer, record)

    def _log_histograms(self, trainer: L.Trainer, values: dict[str, Tensor], read: Tensor) -> None:
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            if hasattr(writer, "add_histogram"):
                for name, x in values.items():
                    real = (x.real if x.is_complex() else x)[read].flatten()
                    sample = real[:: max(1, len(real) // 10_000)].float()
                    writer.add_histogram(f"eigenvalues/{name}", sample, trainer.global_step)


def _before_padding(labels: Tensor) -> Tensor:
    """Return which tokens (B, T) are no padding: those up to the last label of their sequence."""
    scored = labels != IGNORE
    return scored.flip(1).int().cummax(1).values.flip(1).bool() | ~scored.any(1, keepdim=True)
