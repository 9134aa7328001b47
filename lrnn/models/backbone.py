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
from lrnn.ops import Form, add_norm, dtype_of_products, rms_norm, short_convolution, swiglu

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
        return self.down(swiglu(self.gate_up(x)))


class RMSNorm(nn.RMSNorm):
    """PyTorch's, of x (B, T, ..., size), by lrnn/ops/norm/op.py."""

    eps: float

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class AddNorm(RMSNorm):
    """x, y (B, T, size) -> x + y and its RMS norm."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return add_norm(x, y, self.weight, self.eps)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)) where the architecture has an MLP.

    What the last branch gave is not added here, but by whoever reads the sum, a norm: so a block takes the residual
    stream (B, T, width) as two terms, and gives it as two.
    """

    def __init__(self, mixer: nn.Module, width: int, mlp_width: int | None, norm_eps: float):
        super().__init__()
        self.mixer_norm = AddNorm(width, norm_eps)
        self.mixer = mixer
        self.mlp_norm = None if mlp_width is None else AddNorm(width, norm_eps)
        self.mlp = None if mlp_width is None else SwiGLU(width, mlp_width)

    def forward(
        self, x: Tensor, y: Tensor, state: MixerState | None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, MixerState]:
        x, h = self.mixer_norm(x, y)
        y, state = self.mixer(h, state)
        y = y.to(dtype_of_products(x))  # of every block, so that a compiler sees them alike
        if positions is not None:
            x, y = (z.take_along_dim(positions[..., None], dim=1) for z in (x, y))
        if self.mlp_norm is not None and self.mlp is not None:
            x, h = self.mlp_norm(x, y)
            y = self.mlp(h)
        return x, y, state

    def transform(self, x: Tensor, y: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """forward from the start of the sequence, where its state is not needed: what training runs.

        Only for the tokens at `positions` (B, P), if given: (B, T, width) -> (B, P, width).
        """
        # a compiler, and a strategy that shards, take this method for the block's call
        return self.forward(x, y, None, positions)[:2]


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
        self.norm = AddNorm(width, norm_eps)
        self.head = nn.Linear(width, vocab_size, bias=False)
        if tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: list[MixerState] | None = None) -> tuple[Tensor, list[MixerState]]:
        x, y = self.embed(tokens)
        new_state = []
        for i, block in enumerate(self.blocks):
            x, y, block_state = block(x, y, None if state is None else state[i])
            new_state.append(block_state)
        return self.head(self.norm(x, y)[1]), new_state

    def residual_stream(self, tokens: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Its two terms after the last block, from the start of the sequence: (B, T, width), or (B, P, width)."""
        x, y = self.embed(tokens)
        *blocks, last = self.blocks
        for block in blocks:
            x, y = block.transform(x, y)  # type: ignore[operator]
        return last.transform(x, y, positions)  # type: ignore[operator]

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream before the first block: its second term is zero, but else like those of all blocks."""
        x = self.embedding(tokens)
        return x, torch.zeros_like(x, dtype=dtype_of_products(x), requires_grad=x.requires_grad)
