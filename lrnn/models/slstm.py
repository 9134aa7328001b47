"""sLSTM, xLSTM's sequential half (Beck et al. 2024, Figure 9): gates that see the last output.

    i~, f~ = W SiLU(conv(x)) + b         without a convolution: W x + b
    z~, o~ = W x + b                     all four in blocks, one a head
    y      = LayerNorm(slstm(i~, f~, z~, o~))

It is not a linear RNN: the gates depend on the state, so there are no eigenvalues to choose a range for, and time is a
loop. It is here because the paper compares with it.
"""

from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lrnn.models.backbone import MixerState, ShortConvolution
from lrnn.models.language_model import LanguageModel
from lrnn.ops import at_least_float32, slstm


class SLSTMMixer(nn.Module):
    """x (B, T, width) -> y (B, T, width); the state is that of the convolution and h, c, n, m (lrnn/ops/slstm/op.py).

    `depth`, from 0 in the first block to 1 in the last, shapes the forget gates' initial bias: from 5 down to -7 over
    the channels of a head, along a curve that leaves fewer of them long memories in the first block.
    """

    def __init__(self, width: int, heads: int, conv_size: int = 0, depth: float = 0.0, norm_eps: float = 1e-5):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"model.heads: must divide model.width ({width}), got {heads}")
        size = width // heads
        self.conv = ShortConvolution(width, conv_size, bias=True) if conv_size else None
        self.weight = nn.Parameter(torch.empty(4, heads, size, size).normal_(std=(2 / (5 * size)) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(heads, 4, size))
        self.bias.no_weight_decay = True  # type: ignore[attr-defined]
        with torch.no_grad():
            self.bias[:, 1] = 5 - 12 * torch.linspace(0, 1, size) ** (0.3 + 1.3 * depth)
        self.recurrent_weight = nn.Parameter(torch.zeros(heads, size, 4 * size))
        self.norm = nn.LayerNorm(size, eps=norm_eps, bias=False)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        conv_state, *memory = state if state is not None else (None,)
        if self.conv is None:
            conv_state, c = x[:, :0], x
        else:
            c, conv_state = self.conv(x, conv_state)
        seen = torch.stack([c, c, x, x]).unflatten(-1, (self.weight.shape[1], -1))  # (4, B, T, heads, size)
        gates = torch.einsum("gbthd,ghde->bthge", seen, self.weight)
        gates = at_least_float32(gates) + self.bias
        y, new = slstm(gates, self.recurrent_weight, (memory[0], memory[1], memory[2], memory[3]) if memory else None)
        return self.norm(y).flatten(-2), (conv_state, *new)


class SLSTM(LanguageModel):
    """sLSTM. Its blocks have an MLP where `mlp_width` is given; xLSTM's is 1.3 times as wide as the residual stream."""

    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        conv_size: int = 0,
        norm_eps: float = 1e-5,
        **kwargs: Any,
    ):
        """
        Args:
            width: of the residual stream.
            layers: number of blocks.
            heads: number of heads; divides the width.
            conv_size: tokens seen by the short convolution before the input and forget gates; 0 for none.
            norm_eps: epsilon of the norms.
        """
        depth = (block / max(1, layers - 1) for block in count())

        def make_mixer() -> SLSTMMixer:
            return SLSTMMixer(width, heads, conv_size, next(depth), norm_eps)

        super().__init__(make_mixer, width=width, layers=layers, norm_eps=norm_eps, **kwargs)
        self.save_hyperparameters()
