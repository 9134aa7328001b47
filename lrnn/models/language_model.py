"""The LightningModule that every architecture extends: loss, optimizer, decoding."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lrnn.models.auxiliary_terms import Terms, with_gradient_of_sum
from lrnn.models.backbone import Backbone, BlockState
from lrnn.models.class_path import import_path, plain
from lrnn.models.initialisation import build_with_normal_weights
from lrnn.models.layers import Norm, SwiGLU
from lrnn.models.mixer import Layer, Mixer, with_options_at
from lrnn.models.state_consistency import StateConsistency
from lrnn.ops import IGNORE, Form, check_choice, head_loss, head_scores
from lrnn.ops.common.form import FORMS

MOST_LAYERS = 10_000  # more would fill the memory before an error could say so


class Batch(Protocol):
    """A batch of a data module, as far as the models read it."""

    @property
    def inputs(self) -> Tensor:
        """Token ids (B, T), padded on the right."""

    @property
    def labels(self) -> Tensor:
        """Token ids (B, T), -100 where nothing is scored."""


class LanguageModel(L.LightningModule):
    """A stack of residual blocks trained on (inputs, labels) by cross-entropy; label -100 is not scored.

    An architecture is a subclass (lrnn/models/architecture.py), a stack of different mixers is `Hybrid`.
    """

    def __init__(
        self,
        make_mixer: Callable[[Layer], Mixer],
        *,
        vocab_size: int = 3,
        width: int = 128,
        layers: int = 2,
        mlp_width: int | None = None,
        channel_mixer: Callable[[Layer], Mixer] | None = None,
        norm: Norm = "rms",
        norm_eps: float = 1e-6,
        residual: bool = True,
        form: Form = "auto",
        init_std: float | None = None,
        tie_embeddings: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        state_consistency: float = 0.0,
        consistency_start: float = 0.01,
        consistency_ramp: float = 0.3,
        consistency_rate: float = 1.0,
    ):
        """
        Args:
            make_mixer: Makes the mixer of one block.
            vocab_size: Number of tokens.
            width: Size of the hidden states and of the residual stream.
            layers: Number of blocks.
            mlp_width: Hidden width of the SwiGLU MLP after each mixer; no MLP when absent.
            channel_mixer: Class of the mixer after each mixer, with its options, in place of the MLP.
            norm: Norm before each mixer and before the head, rms or layer.
            norm_eps: Epsilon of the norms.
            residual: Whether blocks add to a residual stream; without it, a block's output is that of its last mixer.
            form: Form that the ops run in (lrnn/ops/common/form.py): auto, recurrent, chunked or triton.
            init_std: Standard deviation of the normal initialisation of all linear and embedding weights; PyTorch's
                own initialisation when absent.
            tie_embeddings: Whether the head's weights are the embedding's.
            learning_rate: Peak learning rate of AdamW.
            weight_decay: Weight decay of matrices; norms, biases, embeddings, A_log and D get none.
            betas: Decay rates of AdamW's two moments.
            adam_eps: Epsilon that AdamW adds to the root of the second moment; gradients far below it train nothing.
            state_consistency: Strength of the term that pulls sequences with the same last label into the same state
                (lrnn/models/state_consistency.py); 0 for none.
            consistency_start: Cross-entropy, in nats, below which this term begins to reach the model.
            consistency_ramp: Steps over which its strength grows, or a fraction of all steps if below 1.
            consistency_rate: Learning rate of its table of states, as a multiple of the model's. A table of many labels
                learns slowly from small batches.
        """
        super().__init__()
        _check_sizes(vocab_size=vocab_size, width=width, layers=layers)
        if adam_eps <= 0:
            raise ValueError(f"model.adam_eps: must be above 0, got {adam_eps}")
        check_choice("model.form", form, FORMS)
        if channel_mixer is not None:
            if mlp_width is not None:
                raise ValueError("model.mlp_width: must be absent where model.channel_mixer is given")
            channel_mixer = with_options_at("model.channel_mixer", channel_mixer)
        elif mlp_width is not None:
            channel_mixer = partial(SwiGLU, mlp_width=mlp_width)
        self.class_path = import_path(type(self))  # now, since a strategy that shards changes the class
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.betas = betas
        self.adam_eps = adam_eps
        self.one_label = False  # whether each training sequence has one label: the head then reads that token only
        # mean over the micro-batches of an optimizer step; None if all have equally many
        self.labels_per_batch: float | None = None
        self.auxiliary_terms: Terms = {}  # values in the last training loss
        self._of_step: tuple[int, list[Mapping[str, Tensor]]] = -1, []  # what is logged of a step, by micro-batch
        stack = [Layer(width, index, layers, norm_eps, form, residual) for index in range(layers)]
        build = partial(Backbone, vocab_size, stack, make_mixer, channel_mixer, norm, tie_embeddings)
        self.backbone = build() if init_std is None else build_with_normal_weights(build, init_std)
        self.consistency: StateConsistency | None = None
        if state_consistency:
            for block in self.backbone.blocks:
                block.keeps_state = block.mixer.recurrent_size > 0
            mixers = [block.mixer for block in self.backbone.blocks if block.keeps_state]
            sizes, parts = [mixer.recurrent_size for mixer in mixers], [mixer.recurrent_parts for mixer in mixers]
            self.consistency = StateConsistency(
                vocab_size, sizes, parts, state_consistency, consistency_start, consistency_ramp, consistency_rate
            )

    def record_options(self, options: dict[str, Any]) -> None:
        """Save the options that the model was made with, for its checkpoints and for the loggers."""
        self.save_hyperparameters(plain(options))

    @property
    def vocab_size(self) -> int:
        return self.backbone.head.out_features

    def forward(
        self, tokens: Tensor, state: list[BlockState] | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, list[BlockState]]:
        """Map tokens (B, T), and the state after the tokens before them, to logits (B, T, vocab_size) and a state.

        With `positions` (B, P), the logits (B, P, vocab_size) are those at these tokens. P may be 0 if only the state
        is needed.
        """
        return self.backbone(tokens, state, positions)

    def step(self, token: Tensor, state: list[BlockState] | None = None) -> tuple[Tensor, list[BlockState]]:
        """Map one token a sequence (B,) to logits (B, vocab_size) and the new state.

        The cost of a step of a recurrent architecture does not depend on the number of tokens before.
        """
        logits, state = self(token[:, None], state)
        return logits[:, 0], state

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy (nats) over the labels that are scored; tokens and labels are (B, T).

        The gradient is that of this mean and of the auxiliary terms. If the micro-batches of an optimizer step have
        different numbers of labels (`labels_per_batch`), the gradient of the mean is weighted by the number of labels,
        so that the mean over the micro-batches is the gradient of one large batch. The loss of a micro-batch without
        labels is then 0.
        """
        position = (labels != IGNORE).int().argmax(1, keepdim=True) if self.one_label else None
        x, y, terms, states = self.backbone.residual_stream(tokens, position)
        mean = self.head_loss(x, y, labels if position is None else labels.gather(1, position))
        weighted = mean
        if self.labels_per_batch is not None:
            count = (labels != IGNORE).sum()
            mean = mean.where(count > 0, 0)  # a micro-batch may have no label, and must not look as if it diverged
            weighted = mean * (count / self.labels_per_batch)
        values = terms
        if self.consistency is not None:
            term, ratio = self.consistency(states, labels[:, -1], mean.detach())
            terms = terms | {"state_consistency": term}
            values = terms | {"state_ratio": ratio}
        self.auxiliary_terms = {name: value.detach() for name, value in values.items()}
        if self.labels_per_batch is None and not terms:
            return mean
        return with_gradient_of_sum(mean, weighted, *terms.values())

    def head_loss(self, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """Return the loss from the two terms of the residual stream after the last block."""
        return head_loss(self.backbone.norm(x, y)[1], self.backbone.head.weight, labels)

    def hot_paths(self) -> list[tuple[nn.Module, str]]:
        """Return the methods that only training runs, as (module, name). A compiler compiles equal blocks once."""
        return [*((block, "transform") for block in self.backbone.blocks), (self, "head_loss")]

    def flops_per_token(self, context: int) -> int:
        """Return the floating-point operations of training on one token of `context`, forward and backward.

        The number is approximate. In the forward pass, a weight costs a multiplication and an addition, and a
        recurrence costs what its mixer says. The backward pass costs twice as much. The embedding is a lookup. Norms,
        gates and small recurrences are left out.
        """
        weights = sum(p.numel() for p in nn.ModuleList(self.backbone.blocks).parameters() if p.ndim > 1)
        weights += self.backbone.head.weight.numel()
        mixers = [m for block in self.backbone.blocks for m in (block.mixer, block.channel_mixer) if m is not None]
        return 6 * weights + 3 * sum(mixer.recurrence_flops(context) for mixer in mixers)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch.inputs, batch.labels)
        # not at every step and without prog_bar, as the CPU would wait for the GPU; the Progress bar shows the loss
        if (self.trainer.global_step + 1) % self.log_every_n_steps == 0:
            weighted = loss.detach()
            if self.labels_per_batch is not None:  # as in the gradient
                weighted = weighted * ((batch.labels != IGNORE).sum() / self.labels_per_batch)
            self._log_means({"loss": weighted, **self.auxiliary_terms})
        return loss

    def _log_means(self, values: Mapping[str, Tensor]) -> None:
        """Log values of this batch as their means over the micro-batches of the optimizer step and over all ranks."""
        step = self.trainer.global_step
        if self._of_step[0] != step:
            self._of_step = step, []
        micro_batches = self._of_step[1]
        micro_batches.append(values)
        for name in values:
            mean = torch.stack([one[name] for one in micro_batches]).mean()
            self.log(f"train/{name}", mean, sync_dist=True)

    @property
    def log_every_n_steps(self) -> int:
        steps: int = getattr(self.trainer, "log_every_n_steps")  # noqa: B009  # Lightning does not declare it
        return steps

    def on_fit_start(self) -> None:
        self.one_label = getattr(self._datamodule, "one_label", False)
        if self.consistency is None:
            return
        if not getattr(self._datamodule, "last_label_is_state", False):
            raise MisconfigurationException(
                f"model.state_consistency: must be 0 on {type(self._datamodule).__name__} as it is set up: it needs a "
                "task whose last label determines the state, and training sequences of one length at a time "
                "(data.train_lengths: [32, 32])"
            )
        dtype = self.consistency.table.dtype
        if dtype.itemsize < 4:  # 16 bits hold neither exact states nor a running mean
            raise MisconfigurationException(
                "model.state_consistency: needs weights in float32 or float64, got "
                f"{str(dtype).removeprefix('torch.')}; set trainer.precision to 32-true or bf16-mixed"
            )

    def on_train_start(self) -> None:
        self._of_step = -1, []  # an earlier training of this model may have logged the same step
        if self.consistency is not None:
            self.consistency.begin_training(self.trainer.global_step, self.trainer.accumulate_grad_batches)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.labels_per_batch = getattr(self._datamodule, "labels_per_batch", None)
        if self.consistency is not None:
            step = self.trainer.global_step
            if self.consistency.wants_check(step):
                self.consistency.check(step, not getattr(self._datamodule, "in_curriculum", False))
            self.consistency.set_weight(step, self.trainer.estimated_stepping_batches)

    @property
    def _datamodule(self) -> L.LightningDataModule | None:
        return getattr(self.trainer, "datamodule", None)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        h, _ = self.backbone.hidden_states(batch.inputs)
        nats, correct, scored = head_scores(h, self.backbone.head.weight, batch.labels)
        weight: Any = float(scored)  # Lightning averages the weights over ranks, and would round an integer down
        labels = scored.clamp(min=1)  # a batch of padding has none: its weight is 0, and its values must not be NaN
        self.log("val/loss", nats / labels, batch_size=weight, sync_dist=True)
        self.log("val/accuracy", correct / labels, batch_size=weight, sync_dist=True, prog_bar=True)

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
        """Clip in mixed precision too, where Lightning refuses to clip for a fused optimizer.

        Under float16 such an optimizer divides by the loss scale in its step, which is too late for clipping, so the
        gradients are divided here. Parameters marked `unclipped` are left out: they learn something else, and their
        gradient would decide the norm.
        """
        if not gradient_clip_val:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if not hasattr(p, "unclipped")]
        if GradClipAlgorithmType(gradient_clip_algorithm or "norm") == GradClipAlgorithmType.NORM:
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            nn.utils.clip_grad_value_(parameters, gradient_clip_val)

    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters with and without weight decay."""
        embedding = self.backbone.embedding.weight
        decayed: list[nn.Parameter] = []
        kept: list[nn.Parameter] = []
        for parameter in self.parameters():
            exempt = parameter.ndim < 2 or parameter is embedding or getattr(parameter, "no_weight_decay", False)
            (kept if exempt else decayed).append(parameter)
        return decayed, kept

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model"] = self.class_path
        checkpoint["data"] = import_path(type(self._datamodule))


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"model.{name}: must be at least 1, got {value}")
    if sizes["layers"] > MOST_LAYERS:
        raise ValueError(f"model.layers: must be at most {MOST_LAYERS}, got {sizes['layers']}")
