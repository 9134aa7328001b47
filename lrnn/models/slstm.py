"""sLSTM, xLSTM's sequential half (Beck et al. 2024, Figure 9): gates that see the last output.

    i~, f~ = W SiLU(conv(x)) + b         without a convolution: W x + b
    z~, o~ = W x + b                     each W has a block for each head
    y      = LayerNorm(slstm(i~, f~, z~, o~))

It is not a linear RNN: the gates depend on the state, so there are no eigenvalues to choose a range for, and time is a
loop. It is here because the paper compares with it.
"""

import torch
from torch import Tensor, nn

from lrnn.models.architecture import Architecture
from lrnn.models.layers import ShortConvolution, empty_state
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.ops import at_least_float32, slstm


class SLSTMMixer(Mixer):
    """Mixer of the sLSTM; its state is that of the convolution and h, c, n, m (lrnn/ops/slstm).

    The initial bias of the forget gates falls from 5 to -7 over the channels of a head. It falls along a curve that
    depends on the depth of the block: the first block has fewer long memories than the last.
    """

    def __init__(self, layer: Layer, heads: int = 4, conv_size: int = 0):
        """
        Args:
            layer: Place in the model.
            heads: Number of heads; divides the width.
            conv_size: Tokens seen by the short convolution before the input and forget gates; 0 for none.
        """
        super().__init__()
        width, depth = layer.width, layer.index / max(1, layer.count - 1)  # from 0 in the first block to 1 in the last
        if heads < 1 or width % heads:
            raise ValueError(f"model.heads: must divide model.width ({width}), got {heads}")
        size = width // heads
        self.form = layer.form
        self.conv = ShortConvolution(width, conv_size, bias=True, form=layer.form) if conv_size else None
        self.weight = nn.Parameter(torch.empty(4, heads, size, size).normal_(std=(2 / (5 * size)) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(heads, 4, size))
        self.bias.no_weight_decay = True  # type: ignore[attr-defined]
        with torch.no_grad():
            self.bias[:, 1] = 5 - 12 * torch.linspace(0, 1, size) ** (0.3 + 1.3 * depth)
        self.recurrent_weight = nn.Parameter(torch.zeros(heads, size, 4 * size))
        self.norm = nn.LayerNorm(size, eps=layer.norm_eps, bias=False)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        conv_state, *memory = state if state is not None else (None,)
        if self.conv is None:
            conv_state, c = empty_state(x), x
        else:
            c, conv_state = self.conv(x, conv_state)
        seen = torch.stack([c, c, x, x]).unflatten(-1, (self.weight.shape[1], -1))  # (4, B, T, heads, size)
        gates = torch.einsum("gbthd,ghde->bthge", seen, self.weight)
        gates = at_least_float32(gates) + self.bias
        y, new = slstm(
            gates,
            self.recurrent_weight,
            (memory[0], memory[1], memory[2], memory[3]) if memory else None,
            form=self.form,
        )
        return self.norm(y.to(self.norm.weight.dtype)).flatten(-2), (conv_state, *new)


class SLSTM(Architecture, mixer=SLSTMMixer, norm_eps=1e-5):
    """sLSTM. In xLSTM an MLP follows it that is 1.3 times as wide as the residual stream (`mlp_width`)."""
