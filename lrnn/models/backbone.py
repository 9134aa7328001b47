"""What all architectures share: embedding, pre-norm residual blocks, final norm, head.

A mixer maps (x, state) to (y, state): x and y are (B, T, width) for any T >= 1, and a state of None means
the start of the sequence. So the same call trains on whole sequences, reads a long one piece by piece,
and decodes one token at a time.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrnn.models.linear import Linear
from lrnn.ops import Form, short_convolution

MixerState = tuple[Tensor, ...]


class ShortConvolution(nn.Module):
    """Causal depthwise convolution over the last `kernel_size` tokens, per channel, and SiLU; size 0 is SiLU alone.

    Weight (channels, kernel_size), its last tap on the current token; state (B, kernel_size - 1, channels). The taps
    start as those of torch's Conv1d for one channel a group, or at a normal of standard deviation `init_std`.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        bias: bool = False,
        form: Form = "auto",
        init_std: float | None = None,
    ):
        super().__init__()
        if kernel_size < 0:
            raise ValueError(f"model.conv_size: must be 0 (no convolution) or more, got {kernel_size}")
        if init_std is not None and init_std <= 0:
            raise ValueError(f"model.conv_init_std: must be above 0, got {init_std}")
        self.kernel_size = kernel_size
        self.form = form
        if kernel_size:
            bound = kernel_size**-0.5
            self.weight = nn.Parameter(torch.empty(channels, kernel_size).uniform_(-bound, bound))
            self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None
            if init_std is not None:
                nn.init.normal_(self.weight, std=init_std)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.kernel_size == 0:
            return F.silu(x), x[:, :0]
        return short_convolution(x, self.weight, self.bias, state, form=self.form)


class SwiGLU(nn.Module):
    """Gated MLP: down(SiLU(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)) where the architecture has an MLP."""

    def __init__(self, mixer: nn.Module, width: int, mlp_width: int | None, norm_eps: float):
        super().__init__()
        self.mixer_norm = nn.RMSNorm(width, eps=norm_eps)
        self.mixer = mixer
        self.mlp = (
            None if mlp_width is None else nn.Sequential(nn.RMSNorm(width, eps=norm_eps), SwiGLU(width, mlp_width))
        )

    def forward(
        self, x: Tensor, state: MixerState | None, positions: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        y, state = self.mixer(self.mixer_norm(x), state)
        x = x + y
        if positions is not None:
            x = x.take_along_dim(positions[..., None], dim=1)
        if self.mlp is not None:
            x = x + self.mlp(x)
        return x, state

    def transform(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """forward from the start of the sequence, where its state is not needed: what training runs.

        Only for the tokens at `positions` (B, P), if given: x (B, T, width) -> (B, P, width).
        """
        # a compiler, and a strategy that shards, take this method for the block's call
        return self.forward(x, None, positions)[0]


class Backbone(nn.Module):
    """tokens (B, T) -> logits (B, T, vocab_size), and the state of every block."""

    def __init__(
        self,
        vocab_size: int,
        width: int,
        layers: int,
        make_mixer: Callable[[], nn.Module],
        mlp_width: int | None = None,
        norm_eps: float = 1e-6,
        tie_embeddings: bool = False,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(Block(make_mixer(), width, mlp_width, norm_eps) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.head = nn.Linear(width, vocab_size, bias=False)
        if tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: list[MixerState] | None = None) -> tuple[Tensor, list[MixerState]]:
        x = self.embedding(tokens)
        new_state = []
        for i, block in enumerate(self.blocks):
            x, block_state = block(x, None if state is None else state[i])
            new_state.append(block_state)
        return self.logits(x), new_state

    def residual_stream(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """x after the last block, from the start of the sequence: (B, T, width), or (B, P, width) at `positions`."""
        x = self.embedding(tokens)
        *blocks, last = self.blocks
        for block in blocks:
            x = block.transform(x)  # type: ignore[operator]
        return last.transform(x, positions)  # type: ignore[operator]

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))
