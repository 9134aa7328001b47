"""Transformer: causal softmax attention with rotary positions (Su et al. 2021); the paper's baseline.

    q, k, v = W x                 q and k turned by angles that grow with their position
    y       = W_o attention(q, k, v)

The state of a sequence is the keys and values of all its tokens, so it grows, and `step` gets slower. The paper states
neither the encoding of positions nor the number of heads of its Transformer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.models.architecture import Architecture
from lrnn.models.layers import Linear
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.ops import at_least_float32


class AttentionMixer(Mixer):
    """Causal attention; its state is the turned k, and v, both (B, heads, tokens so far, d_head)."""

    def __init__(self, layer: Layer, heads: int = 4, rotary_base: float = 10_000.0):
        """
        Args:
            layer: Place in the model.
            heads: Number of heads; divides half of the width.
            rotary_base: Base of the rotary angles: from one token to the next, the slowest pair of channels turns by
                about 1 / rotary_base.
        """
        super().__init__()
        width = layer.width
        if heads < 1 or width % (2 * heads):
            raise ValueError(f"model.heads: must divide half of model.width ({width}), got {heads}")
        if rotary_base <= 1:
            raise ValueError(f"model.rotary_base: must be above 1, got {rotary_base}")
        self.heads = heads
        self.rotary_base = rotary_base
        self.qkv_proj = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # (B, heads, T, d_head)
        T, past = x.shape[1], 0 if state is None else state[0].shape[2]
        q, k = self._turn(q, past), self._turn(k, past)
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        if past == 0:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = torch.ones(T, past + T, dtype=torch.bool, device=x.device).tril(past)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out_proj(y.transpose(1, 2).flatten(-2)), (k, v)

    def recurrence_flops(self, context: int) -> int:
        """Count a product with the keys and one with the values of half the context, the mean over a sequence."""
        return 2 * self.out_proj.in_features * context

    def _turn(self, x: Tensor, past: int) -> Tensor:
        """Turn pair p of the channels at position t by the angle t * rotary_base^(-2 p / d_head)."""
        T, d = x.shape[2:]
        exact = at_least_float32(x)
        # with trainer.precision=bf16-true the default dtype has 8 bits, too few for positions and frequencies
        pair = torch.arange(d // 2, dtype=exact.dtype, device=x.device)
        position = torch.arange(past, past + T, dtype=exact.dtype, device=x.device)
        angle = position[:, None] * self.rotary_base ** (-2 * pair / d)  # (T, d / 2)
        cos, sin = angle.cos(), angle.sin()
        a, b = exact.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


class Transformer(Architecture, mixer=AttentionMixer, mlp_width=512):
    """Causal Transformer. It is no RNN, but it is trained and scored as one."""
