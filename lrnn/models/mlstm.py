"""mLSTM, xLSTM's parallel half (Beck et al. 2024, Figure 10): a matrix memory with an exponential input gate.

    u, z    = W_up x                      c = SiLU(conv(u))
    q, k, v = W_q c, W_k c, W_v u         in blocks of 4 channels; k scaled by d_head^-1/2
    i~, f~  = W_gates [q, k, v] + b       at first only the bias counts: f in sigmoid(3 to 6)
    y       = W_down ((LayerNorm(mlstm(q, k, v, i~, f~)) + skip * c) * SiLU(z))

With eigenvalue range (-1, 1) the forget gate becomes 2 sigmoid(f~) - 1; the rest stays as it is. The paper leaves that
open (Grazzi et al. 2025, Appendix E.4): its mLSTM is the one with (0, 1).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrnn.models.backbone import MixerState, ShortConvolution
from lrnn.models.language_model import LanguageModel
from lrnn.models.linear import Linear
from lrnn.ops import at_least_float32, mlstm, range_scale


class BlockLinear(nn.Module):
    """Linear map of each block of channels by itself: (..., channels) -> (..., channels)."""

    def __init__(self, channels: int, block: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels // block, block, block).normal_(std=(2 / (5 * block)) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, self.weight.shape[:2])
        return torch.einsum("...bi,bij->...bj", blocks, self.weight).flatten(-2)


class MLSTMMixer(nn.Module):
    """x (B, T, width) -> y (B, T, width); the state is that of the convolution and C, n, m (lrnn/ops/mlstm/op.py)."""

    def __init__(
        self,
        width: int,
        heads: int,
        eigenvalue_range: Sequence[float],
        expand: int = 2,
        conv_size: int = 4,
        qkv_block: int = 4,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        if expand < 1:
            raise ValueError(f"model.expand: must be at least 1, got {expand}")
        channels = expand * width
        for name, value in (("heads", heads), ("qkv_block", qkv_block)):
            if value < 1 or channels % value:
                raise ValueError(f"model.{name}: must divide model.expand * model.width ({channels}), got {value}")
        range_scale(eigenvalue_range)  # refuses any other range
        self.heads = heads
        self.eigenvalue_range = eigenvalue_range
        self.up_proj = Linear(width, 2 * channels)
        self.conv = ShortConvolution(channels, conv_size, bias=True)
        self.q_proj, self.k_proj, self.v_proj = (BlockLinear(channels, qkv_block) for _ in range(3))
        self.gate_weight = nn.Parameter(torch.zeros(2 * heads, 3 * channels))
        self.gate_bias = nn.Parameter(torch.cat([0.1 * torch.randn(heads), torch.linspace(3, 6, heads)]))
        self.norm = nn.LayerNorm(channels // heads, eps=norm_eps, bias=False)
        self.skip = nn.Parameter(torch.ones(channels))
        self.down_proj = Linear(channels, width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        conv_state, *memory = state if state is not None else (None,)
        u, z = self.up_proj(x).chunk(2, dim=-1)
        c, conv_state = self.conv(u, conv_state)
        q, k, v = self.q_proj(c), self.k_proj(c), self.v_proj(u)
        gates = at_least_float32(F.linear(torch.cat([q, k, v], -1), self.gate_weight)) + self.gate_bias
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
        )
        y = (self.norm(at_least_float32(h)).flatten(-2) + self.skip * c) * F.silu(z)
        return self.down_proj(y), (conv_state, *new)

    def recurrence_flops(self, context: int) -> int:
        """A token's, forward, beside the weights': the memory is written and read."""
        return 4 * self.down_proj.in_features * self.norm.normalized_shape[0]


class MLSTM(LanguageModel):
    """mLSTM with the forget gate, its transition's eigenvalue, in (0, 1) or (-1, 1)."""

    def __init__(
        self,
        eigenvalue_range: tuple[float, float] = (0, 1),
        width: int = 128,
        heads: int = 4,
        expand: int = 2,
        conv_size: int = 4,
        qkv_block: int = 4,
        norm_eps: float = 1e-5,
        **kwargs: Any,
    ):
        """
        Args:
            eigenvalue_range: of the state transitions, [0, 1] as in xLSTM, or [-1, 1].
            width: of the residual stream.
            heads: number of heads; divides expand * width.
            expand: channels of q, k and v, as a multiple of the width.
            conv_size: tokens seen by the short convolution on q and k; 0 for none.
            qkv_block: channels that are mixed to make q, k and v; divides expand * width.
            norm_eps: epsilon of the norms.
        """

        def make_mixer() -> MLSTMMixer:
            return MLSTMMixer(width, heads, eigenvalue_range, expand, conv_size, qkv_block, norm_eps)

        super().__init__(make_mixer, width=width, norm_eps=norm_eps, **kwargs)
        self.save_hyperparameters()
