"""A training step that is launched as one CUDA graph: loss, gradient, clipping and optimizer.

A small model's step is some hundred kernels of a few microseconds, and launching them one by one takes longer than
running them. Recorded once and replayed, they cost one launch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

WARMUP = 3  # steps before the recording, in which kernels are compiled and the optimizer makes its state


class RecordedStep:
    """Takes the place of the model's `loss(tokens, labels)`, and of the backward pass and optimizer step after it.

    Every batch must have the shape of the first. Learning rates may change from step to step; all else is as it was
    at the recording. Hooks between the loss and the optimizer's step, such as on_after_backward, see no gradient.
    """

    def __init__(self, trainer: L.Trainer, model: L.LightningModule, batch: Any):
        self.tokens, self.labels = (x.clone() for x in batch)
        self.optimizer = trainer.optimizers[0]
        self.plain_loss: Callable[[Tensor, Tensor], Tensor] = model.loss  # type: ignore[assignment]
        self.precision = trainer.precision_plugin
        self.clip = partial(
            model.configure_gradient_clipping,
            self.optimizer,
            trainer.gradient_clip_val,
            trainer.gradient_clip_algorithm,
        )
        self.rates = [torch.zeros((), device=self.tokens.device) for _ in self.optimizer.param_groups]
        self._record()

    def install(self, model: L.LightningModule) -> None:
        """Put it in the model's place. What Lightning would do after the loss is then done already."""

        def nothing(*_: Any, **__: Any) -> None:
            pass

        def optimizer_step(epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]) -> None:
            optimizer_closure()  # Lightning's: it computes the loss

        hooks = {"loss": self, "backward": nothing, "optimizer_zero_grad": nothing, "optimizer_step": optimizer_step}
        for name, hook in hooks.items():
            setattr(model, name, hook)  # an instance's attribute goes before its class's method

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
        return self.loss.clone()  # the next replay writes over it

    def _step(self) -> Tensor:
        self.optimizer.zero_grad()
        with self.precision.forward_context():
            torch.set_autocast_cache_enabled(False)  # else the graph would keep casts of the weights as they are now
            loss = self.plain_loss(self.tokens, self.labels)
        loss.backward()
        self.clip()
        self.optimizer.step()
        return loss.detach()

    def _record(self) -> None:
        groups = self.optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"], group["capturable"] = rate, True  # a rate of 0: the warm-up leaves the weights alone
        moments = {p: {k: v.clone() for k, v in state.items()} for p, state in self.optimizer.state.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        for p, state in self.optimizer.state.items():  # as before the warm-up: restored, or at its start
            for name, value in state.items():
                value.copy_(moments[p][name]) if p in moments else value.zero_()
        self.optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = self._step()
        for group, (rate, capturable) in zip(groups, before, strict=True):
            group["lr"], group["capturable"] = rate, capturable
