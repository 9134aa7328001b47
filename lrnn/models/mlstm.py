"""mLSTM, xLSTM's parallel half (Beck et al. 2024, Figure 10): a matrix memory with an exponential input gate.

    u, z    = W_up x                      c = SiLU(conv(u))
    q, k, v = W_q c, W_k c, W_v u         in blocks of 4 channels
    i~, f~  = W_gates [q, k, v] + b       W_gates starts at zero, b of f~ between 3 and 6
    y       = W_down ((LayerNorm(mlstm(q, d_head^-1/2 k, v, i~, f~)) + skip * c) * SiLU(z))

With eigenvalue range (-1, 1) the forget gate becomes 2 sigmoid(f~) - 1; the rest stays as it is. The paper's mLSTM has
(0, 1), and the paper leaves (-1, 1) open (Grazzi et al. 2025, Appendix E.4).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrnn.models.architecture import Architecture
from lrnn.models.layers import Linear, ShortConvolution
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.models.transitions import DiagonalTransitions
from lrnn.ops import at_least_float32, mlstm, range_scale


class BlockLinear(nn.Module):
    """Linear map of each block of channels by itself: (..., channels) -> (..., channels)."""

    def __init__(self, channels: int, block: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels // block, block, block).normal_(std=(2 / (5 * block)) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, self.weight.shape[:2])
        return torch.einsum("...bi,bij->...bj", blocks, self.weight).flatten(-2)


class MLSTMMixer(Mixer):
    """Mixer of the mLSTM; its state is that of the convolution and C, n, m (lrnn/ops/mlstm)."""

    def __init__(
        self,
        layer: Layer,
        eigenvalue_range: tuple[float, float] = (0, 1),
        heads: int = 4,
        expand: int = 2,
        conv_size: int = 4,
        qkv_block: int = 4,
    ):
        """
        Args:
            layer: Place in the model.
            eigenvalue_range: Range of the eigenvalue of the state transitions, [0, 1] as in xLSTM, or [-1, 1].
            heads: Number of heads; divides expand * width.
            expand: Channels of q, k and v, as a multiple of the width.
            conv_size: Tokens seen by the short convolution on q and k; 0 for none.
            qkv_block: Number of channels that are mixed to make q, k and v; divides expand * width.
        """
        super().__init__()
        if expand < 1:
            raise ValueError(f"model.expand: must be at least 1, got {expand}")
        channels = expand * layer.width
        for name, value in (("heads", heads), ("qkv_block", qkv_block)):
            if value < 1 or channels % value:
                raise ValueError(f"model.{name}: must divide model.expand * model.width ({channels}), got {value}")
        range_scale(eigenvalue_range)  # refuses any other range
        self.heads = heads
        self.eigenvalue_range = eigenvalue_range
        self.form = layer.form
        self.up_proj = Linear(layer.width, 2 * channels)
        self.conv = ShortConvolution(channels, conv_size, bias=True, form=layer.form)
        self.q_proj, self.k_proj, self.v_proj = (BlockLinear(channels, qkv_block) for _ in range(3))
        self.gate_weight = nn.Parameter(torch.zeros(2 * heads, 3 * channels))
        self.gate_bias = nn.Parameter(torch.cat([0.1 * torch.randn(heads), torch.linspace(3, 6, heads)]))
        self.norm = nn.LayerNorm(channels // heads, eps=layer.norm_eps, bias=False)
        self.skip = nn.Parameter(torch.ones(channels))
        self.down_proj = Linear(channels, layer.width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        conv_state, *memory = state if state is not None else (None,)
        z, c, (q, k, v), gates, conv_state = self._project(x, conv_state)
        input_gate, forget_gate = gates.chunk(2, dim=-1)  # (B, T, heads)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (q, k, v))
        k = k * k.shape[-1] ** -0.5
        h, new = mlstm(
            q,
            k,
            v,
            input_gate,
            forget_gate,
            self.eigenvalue_range,
            (memory[0], memory[1], memory[2]) if memory else None,
            form=self.form,
        )
        y = (self.norm(h.to(self.norm.weight.dtype)).flatten(-2) + self.skip * c) * F.silu(z)
        return self.down_proj(y), (conv_state, *new)

    def transitions(self, x: Tensor, state: MixerState | None = None) -> DiagonalTransitions:
        """Return the forget gates of T tokens, a group for each head, from the arguments of `forward`."""
        *_, gates, _ = self._project(x, None if state is None else state[0])
        s = range_scale(self.eigenvalue_range)
        return DiagonalTransitions(s * torch.sigmoid(gates.chunk(2, dim=-1)[1]) - (s - 1))

    def _project(
        self, x: Tensor, conv_state: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Return z, c, (q, k, v), the logits of both gates (B, T, 2 heads), and the state of the convolution."""
        u, z = self.up_proj(x).chunk(2, dim=-1)
        c, conv_state = self.conv(u, conv_state)
        q, k, v = self.q_proj(c), self.k_proj(c), self.v_proj(u)
        gates = at_least_float32(F.linear(torch.cat([q, k, v], -1), self.gate_weight)) + self.gate_bias
        return z, c, (q, k, v), gates, conv_state

    def recurrence_flops(self, context: int) -> int:
        """Count two passes over the memory: it is written and read."""
        return 4 * self.down_proj.in_features * self.norm.normalized_shape[0]


class MLSTM(Architecture, mixer=MLSTMMixer, norm_eps=1e-5):
    """mLSTM whose forget gate, the eigenvalue of its transition, is in (0, 1) or (-1, 1)."""
