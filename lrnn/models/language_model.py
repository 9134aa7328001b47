"""The LightningModule that every architecture extends: loss, optimizer, decoding."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn

from lrnn.models.backbone import Backbone, MixerState
from lrnn.ops import at_least_float32, head_loss
from lrnn.ops.common.form import forms_in_use
from lrnn.ops.head_loss.op import IGNORE


class LanguageModel(L.LightningModule):
    """A backbone trained on (inputs, labels) by cross-entropy; label -100 is not scored.

    An architecture is a subclass that hands over `make_mixer`, which makes a block's mixer, and says what
    its own options mean.
    """

    def __init__(
        self,
        make_mixer: Callable[[], nn.Module],
        *,
        vocab_size: int = 3,
        width: int = 128,
        layers: int = 2,
        mlp_width: int | None = None,
        norm_eps: float = 1e-6,
        init_std: float | None = None,
        tie_embeddings: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
    ):
        """
        Args:
            make_mixer: makes the mixer of one block.
            vocab_size: number of tokens.
            width: of the residual stream.
            layers: number of blocks.
            mlp_width: hidden width of the SwiGLU MLP after each mixer; no MLP when absent.
            norm_eps: epsilon of the RMS norms.
            init_std: standard deviation of the normal initialisation of all linear and embedding weights;
                PyTorch's own initialisation when absent.
            tie_embeddings: the head's weights are the embedding's.
            learning_rate: AdamW's peak rate.
            weight_decay: of matrices; norms, biases, embeddings, A_log and D get none.
            betas: AdamW's decay rates of the two moments.
            adam_eps: what AdamW adds to the root of the second moment; a gradient far below it trains no more.
        """
        super().__init__()
        for name, value in (("vocab_size", vocab_size), ("width", width), ("layers", layers)):
            if value < 1:
                raise ValueError(f"model.{name}: must be at least 1, got {value}")
        if adam_eps <= 0:
            raise ValueError(f"model.adam_eps: must be above 0, got {adam_eps}")
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.betas = betas
        self.adam_eps = adam_eps
        self.one_label = False  # of a training sequence: the last MLP and the head then run on its token alone
        self.backbone = Backbone(vocab_size, width, layers, make_mixer, mlp_width, norm_eps, tie_embeddings)
        if init_std is not None:
            for module in self.backbone.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=init_std)

    def forward(self, tokens: Tensor, state: list[MixerState] | None = None) -> tuple[Tensor, list[MixerState]]:
        """tokens (B, T), and the state after the tokens before them -> logits (B, T, vocab_size), new state."""
        return self.backbone(tokens, state)

    def step(self, token: Tensor, state: list[MixerState] | None = None) -> tuple[Tensor, list[MixerState]]:
        """One token a sequence (B,) -> logits (B, vocab_size), new state; the cost does not depend on the past."""
        logits, state = self(token[:, None], state)
        return logits[:, 0], state

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy (nats) over the labels that are scored; tokens and labels are (B, T)."""
        if not self.one_label:
            return self.head_loss(*self.backbone.residual_stream(tokens), labels)
        position = (labels != IGNORE).int().argmax(1, keepdim=True)
        return self.head_loss(*self.backbone.residual_stream(tokens, position), labels.gather(1, position))

    def head_loss(self, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """Of the residual stream's two terms."""
        return head_loss(self.backbone.norm(x, y)[1], self.backbone.head.weight, labels)

    def hot_paths(self) -> list[tuple[nn.Module, str]]:
        """What training, and nothing else, runs, as (module, method): for a compiler. Equal blocks compile once."""
        return [*((block, "transform") for block in self.backbone.blocks), (self, "head_loss")]

    def flops_per_token(self, context: int) -> int:
        """Of training on one token of `context`, forward and backward; approximate.

        Forward, a weight costs a multiplication and an addition, and a recurrence what its mixer says; backward, twice
        that. The embedding is a lookup; norms and gates, and recurrences that are no larger, are left out.
        """
        weights = sum(p.numel() for p in self.backbone.blocks.parameters() if p.ndim > 1)
        weights += self.backbone.head.weight.numel()
        mixers: list[Any] = [block.mixer for block in self.backbone.blocks]
        recurrences = sum(m.recurrence_flops(context) for m in mixers if hasattr(m, "recurrence_flops"))
        return 6 * weights + 3 * recurrences

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch.inputs, batch.labels)
        # neither at every step nor with prog_bar, which makes the CPU wait for the GPU; the Progress bar shows the loss
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss)
        return loss

    def on_fit_start(self) -> None:
        """Run two tokens, so that the ops choose their forms before the hyperparameters are recorded."""
        self.one_label = getattr(self.trainer.datamodule, "one_label", False)  # type: ignore[attr-defined]
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            self(tokens)
        if self.logger:
            self.logger.log_hyperparams({"forms_in_use": dict(forms_in_use)})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, _ = self(batch.inputs)
        scored = batch.labels != IGNORE
        correct = (logits.argmax(-1) == batch.labels)[scored].float().mean()
        size = int(scored.sum())
        self.log("val/loss", self._cross_entropy(logits, batch.labels), batch_size=size, sync_dist=True)
        self.log("val/accuracy", correct, batch_size=size, sync_dist=True, prog_bar=True)

    @staticmethod
    def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(at_least_float32(logits).flatten(0, 1), labels.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed, kept = self.decay_groups()
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.adam_eps, fused=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip under bf16-mixed too, where Lightning refuses to for a fused optimizer.

        The reason it gives, a scaled loss, holds for float16 only.
        """
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and getattr(plugin, "scaler", None) is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters with and without weight decay."""
        embedding = self.backbone.embedding.weight
        decayed: list[nn.Parameter] = []
        kept: list[nn.Parameter] = []
        for parameter in self.parameters():
            exempt = parameter.ndim < 2 or parameter is embedding or getattr(parameter, "no_weight_decay", False)
            (kept if exempt else decayed).append(parameter)
        return decayed, kept

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model"] = type(self).__name__
        checkpoint["data"] = type(self.trainer.datamodule).__name__  # type: ignore[attr-defined]
