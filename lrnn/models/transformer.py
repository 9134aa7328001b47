"""Transformer: causal softmax attention with rotary positions (Su et al. 2021); the paper's baseline.

    q, k, v = W x                 q and k turned by angles that grow with their position
    y       = W_o attention(q, k, v)

The state of a sequence is the keys and values of all its tokens, so it grows, and `step` gets slower. The paper tells
neither the positions nor the heads of its Transformer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrnn.models.backbone import MixerState
from lrnn.models.language_model import LanguageModel
from lrnn.models.linear import Linear
from lrnn.ops import at_least_float32


class AttentionMixer(nn.Module):
    """x (B, T, width) -> y (B, T, width); the state is k, turned, and v, both (B, heads, tokens so far, d_head)."""

    def __init__(self, width: int, heads: int, rotary_base: float = 10_000.0):
        super().__init__()
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
        """A token's, forward, beside the weights': keys and values of half the context, on average."""
        return 2 * self.out_proj.in_features * context

    def _turn(self, x: Tensor, past: int) -> Tensor:
        """Pair p of channels at position t, turned by t * rotary_base^(-2 p / d_head)."""
        T, d = x.shape[2:]
        frequency = self.rotary_base ** (-torch.arange(0, d, 2, device=x.device) / d)
        position = torch.arange(past, past + T, device=x.device)
        angle = position[:, None] * frequency  # (T, d / 2)
        cos, sin = angle.cos(), angle.sin()
        a, b = at_least_float32(x).chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


class Transformer(LanguageModel):
    """Causal Transformer: not an RNN, trained and scored as one."""

    def __init__(
        self,
        width: int = 128,
        heads: int = 4,
        mlp_width: int | None = 512,
        rotary_base: float = 10_000.0,
        norm_eps: float = 1e-6,
        **kwargs: Any,
    ):
        """
        Args:
            width: of the residual stream.
            heads: number of heads; divides half of the width.
            mlp_width: hidden width of the SwiGLU MLP after each attention; no MLP when absent.
            rotary_base: the slowest pair of channels turns by about 1 / rotary_base a token.
            norm_eps: epsilon of the RMS norms.
        """

        def make_mixer() -> AttentionMixer:
            return AttentionMixer(width, heads, rotary_base)

        super().__init__(make_mixer, width=width, mlp_width=mlp_width, norm_eps=norm_eps, **kwargs)
        self.save_hyperparameters()
