"""DeltaNet (Yang et al. 2024b): a state that reflects, so that one layer can keep a parity.

q, k, v = SiLU(conv(W x))        |q| = |k| = 1, q scaled by d_head^-1/2
beta    = s * sigmoid(c w x)     s = 1: eigenvalues in (0, 1); s = 2: in (-1, 1) (paper, Figure 13); c = beta_slope
y       = W_o RMSNorm(delta_rule(q, k, v, beta))
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.models.architecture import Architecture
from lrnn.models.auxiliary_terms import Terms
from lrnn.models.gate_saturation import saturation_of_logits
from lrnn.models.layers import Linear, RMSNorm, ShortConvolution, empty_state
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.models.transitions import HouseholderTransitions
from lrnn.models.unit_keys import (
    QKActivation,
    beta_for_rounded_keys,
    beta_from_logits,
    check_activation,
    check_beta,
    size_of_heads,
    steepen,
)
from lrnn.ops import (
    at_least_float32,
    delta_rule,
    delta_rule_state,
    linear,
    qkv_convolution,
    range_scale,
    unit_heads,
)
from lrnn.ops.qkv_convolution.op import Heads


class DeltaNetMixer(Mixer):
    """Mixer of DeltaNet; its state is that of the convolution and S (B, heads, d_head, d_head)."""

    def __init__(
        self,
        layer: Layer,
        eigenvalue_range: tuple[float, float] = (-1, 1),
        heads: int = 4,
        head_size: int | None = None,
        conv_size: int = 4,
        conv_init_std: float | None = None,
        qk_activation: QKActivation = "silu",
        gate_saturation: float = 0.0,
        beta_slope: float = 1.0,
        beta_stretch: float = 0.0,
    ):
        """
        Args:
            layer: Place in the model.
            eigenvalue_range: Range of the eigenvalues of the state transitions, [0, 1] or [-1, 1].
            heads: Number of heads.
            head_size: Size of keys, queries and values; when absent, the heads share the width and must divide it.
            conv_size: Tokens seen by the short convolution on q, k and v; 0 for none.
            conv_init_std: Standard deviation of the normal initialisation of the convolution's taps, as in the paper's
                code and in flash-linear-attention; PyTorch's own initialisation when absent.
            qk_activation: Activation of q and k, silu or identity; identity needs conv_size 0 (paper, Section 5.2).
            gate_saturation: Strength of the term that pushes beta onto the ends of its range; 0 for none
                (lrnn/models/gate_saturation.py).
            beta_slope: Factor of the logits of beta. With a steeper sigmoid, beta comes nearer to the ends of its range
                in the same number of steps (results/groups).
            beta_stretch: How far the sigmoid of beta is stretched beyond each end of its range before it is clipped.
                With 0.01, beta reaches the ends exactly, and states last (results/groups); 0 for a plain sigmoid.
        """
        super().__init__()
        width = layer.width
        head_size = size_of_heads(width, heads, head_size)
        if gate_saturation < 0:
            raise ValueError(f"model.gate_saturation: must be at least 0, got {gate_saturation}")
        check_activation(qk_activation, conv_size)
        check_beta(beta_slope, beta_stretch)
        self.heads = heads
        self.qk_activation = qk_activation
        self.beta_scale = range_scale(eigenvalue_range)
        self.beta_slope, self.beta_stretch = beta_slope, beta_stretch
        self.gate_saturation = gate_saturation
        self.has_auxiliary_terms = gate_saturation > 0
        self.form = layer.form
        channels = heads * head_size
        self.splits = [3 * channels, heads]
        self.in_proj = Linear(width, sum(self.splits))  # q, k, v and the logits of beta
        self.conv = ShortConvolution(3 * channels, conv_size, form=layer.form, init_std=conv_init_std)
        self.norm = RMSNorm(head_size, layer.norm_eps, layer.form)
        self.out_proj = Linear(channels, width)

    def forward(
        self, x: Tensor, state: MixerState | None = None, terms: Terms | None = None
    ) -> tuple[Tensor, MixerState]:
        conv_state, S = state if state is not None else (None, None)
        (q, k, v, k_square), logits, conv_state = self._project(x, conv_state)
        if terms is not None:
            terms["gate_saturation"] = saturation_of_logits(logits, self.gate_saturation)
        beta = beta_for_rounded_keys(self._beta(logits), k, k_square)
        o, S = delta_rule(q, k, v, beta, S, form=self.form)  # o (B, T, heads, d_head)
        return self.out_proj(self.norm(o).flatten(-2)), (conv_state, S)

    def transitions(self, x: Tensor, state: MixerState | None = None) -> HouseholderTransitions:
        """Return the transitions I - beta k k^T of T tokens, a group for each head, from the arguments of `forward`."""
        (_, k, _, _), logits, _ = self._project(x, None if state is None else state[0])
        return HouseholderTransitions(self._beta(logits)[:, :, None], k[:, :, None])

    def _project(self, x: Tensor, conv_state: Tensor | None) -> tuple[Heads, Tensor, Tensor]:
        """Return q, k, v and |k|^2, the logits of beta in at least float32, and the state of the convolution."""
        projected = self.in_proj(x)
        if self.conv.kernel_size:
            heads, logits, conv_state = qkv_convolution(
                projected, self.conv.weight, self.heads, conv_state, form=self.form
            )
        else:
            qkv, logits = projected.split(self.splits, dim=-1)
            if self.qk_activation == "silu":
                qkv, conv_state = self.conv(qkv)
            else:
                qk, v = qkv.tensor_split((2 * qkv.shape[-1] // 3,), dim=-1)
                qkv, conv_state = torch.cat([qk, F.silu(v)], -1), empty_state(x)
            heads = unit_heads(qkv, self.heads)
        return heads, steepen(at_least_float32(logits), self.beta_slope), conv_state

    def _beta(self, logits: Tensor) -> Tensor:
        return beta_from_logits(logits, self.beta_scale, self.beta_stretch)

    def advance(self, x: Tensor, state: MixerState | None = None) -> MixerState:
        if self.conv.kernel_size or x.is_cuda or torch.is_grad_enabled():
            return super().advance(x, state)
        conv_state, S = state if state is not None else (empty_state(x), None)
        channels = self.splits[0] // 3
        kv, logits = linear(x, self.in_proj.weight[channels:]).split([2 * channels, self.heads], dim=-1)
        k, v = kv.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        k, v = F.silu(k) if self.qk_activation == "silu" else k, F.silu(v)
        k = F.normalize(at_least_float32(k), dim=-1).to(v.dtype)
        logits = steepen(at_least_float32(logits), self.beta_slope)
        beta = beta_for_rounded_keys(self._beta(logits), k)
        return conv_state, delta_rule_state(k, v, beta, S, form=self.form)

    @property
    def recurrent_size(self) -> int:
        return self.out_proj.in_features * self.norm.normalized_shape[0]

    @property
    def recurrent_parts(self) -> int:
        return self.heads

    def recurrence_flops(self, context: int) -> int:
        """Count three passes over the state: it is read for k, written, and read for q."""
        return 6 * self.out_proj.in_features * self.norm.normalized_shape[0]


class DeltaNet(Architecture, mixer=DeltaNetMixer):
    """DeltaNet with transition eigenvalues in (0, 1) or (-1, 1)."""
