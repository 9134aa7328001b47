"""A training step that is launched as one CUDA graph: loss, gradient, clipping and optimizer step.

The step of a small model consists of some hundred kernels of a few microseconds each. Launching them one by one takes
longer than running them. Recorded once and replayed, they need one launch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.contract import trained_model

WARMUP = 3  # steps before the recording: they compile kernels and create the optimizer's state


class RecordedStep:
    """Replaces the model's `loss(tokens, labels)` and the backward pass and optimizer step that follow it.

    Every batch must have the shape of the first; for another shape, record anew. Learning rates and the model's buffers
    may change from step to step; everything else stays as it was at the recording. Hooks between the loss and the
    optimizer's step, such as on_after_backward, see no gradient.
    """

    def __init__(self, trainer: L.Trainer, model: L.LightningModule, batch: Any):
        self.tokens, self.labels = (x.clone() for x in batch)
        self.optimizer = trainer.optimizers[0]
        loss = trained_model(model).loss
        self.plain_loss: Callable[[Tensor, Tensor], Tensor] = (
            loss.plain_loss if isinstance(loss, RecordedStep) else loss
        )
        self.buffers = list(model.buffers())
        self.precision = trainer.precision_plugin
        self.clip = partial(
            model.configure_gradient_clipping,
            self.optimizer,
            trainer.gradient_clip_val,
            trainer.gradient_clip_algorithm,
        )
        self.rates = [torch.zeros((), device=self.tokens.device) for _ in self.optimizer.param_groups]
        self._record()

    def fits(self, batch: Any) -> bool:
        return batch[0].shape == self.tokens.shape

    def install(self, model: L.LightningModule) -> None:
        """Replace the model's loss, and the hooks by which Lightning would run the rest of the step a second time."""

        def nothing(*_: Any, **__: Any) -> None:
            pass

        def optimizer_step(epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]) -> None:
            optimizer_closure()  # Lightning's closure, which computes the loss

        hooks = {"loss": self, "backward": nothing, "optimizer_zero_grad": nothing, "optimizer_step": optimizer_step}
        for name, hook in hooks.items():
            setattr(model, name, hook)  # an attribute of the instance hides the method of its class

    def __call__(self, tokens: Tensor, labels: Tensor) -> Tensor:
        if tokens.shape != self.tokens.shape:
            raise ValueError(
                f"compile.cuda_graphs: every batch must have the shape of the first, {tuple(self.tokens.shape)}, "
                f"got {tuple(tokens.shape)}"
            )
        self.tokens.copy_(tokens)
        self.labels.copy_(labels)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self.graph.replay()
        return self.loss.clone()  # a copy, as the next replay overwrites it

    def _step(self) -> Tensor:
        self.optimizer.zero_grad()
        with self.precision.forward_context():
            torch.set_autocast_cache_enabled(False)  # else the graph would reuse casts of the weights at the recording
            loss = self.plain_loss(self.tokens, self.labels)
        loss.backward()
        self.clip()
        self.optimizer.step()
        return loss.detach()

    def _record(self) -> None:
        groups = self.optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"], group["capturable"] = rate, True  # a rate of 0, so that the warm-up keeps the weights
        buffers = [buffer.clone() for buffer in self.buffers]
        moments = {p: {k: v.clone() for k, v in state.items()} for p, state in self.optimizer.state.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        for p, state in self.optimizer.state.items():  # the state before the warm-up: restored, or zero
            for name, value in state.items():
                value.copy_(moments[p][name]) if p in moments else value.zero_()
        for buffer, value in zip(self.buffers, buffers, strict=True):
            buffer.copy_(value)
        self.optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = self._step()
        for group, (rate, capturable) in zip(groups, before, strict=True):
            group["lr"], group["capturable"] = rate, capturable
