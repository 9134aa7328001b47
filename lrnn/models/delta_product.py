"""DeltaProduct (Siems et al. 2025): several reflections for each token, so that one layer can rotate and permute.

q, k_j, v_j = SiLU(conv(W x))    |q| = |k_j| = 1, q scaled by d_head^-1/2, for j = 1, ..., n reflections
beta_j      = s * sigmoid(c w_j x)    s = 1: eigenvalues of a reflection in (0, 1); s = 2: in (-1, 1); c = beta_slope
log g       = -exp(A_log) softplus(w_g x + b_dt)      with a forget gate (Gated DeltaProduct), else g = 1
y           = W_o RMSNorm(delta_product(q, k, v, beta, log g))

A product of n reflections permutes at most n + 1 points. So one layer needs n = 1 for swaps of two points, and n = 4
for all permutations of five points (S5).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrnn.models.architecture import Architecture
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
from lrnn.ops import at_least_float32, delta_product, range_scale, softplus


class DeltaProductMixer(Mixer):
    """Mixer of DeltaProduct; its state is that of the convolution and S (B, heads, d_head, d_head)."""

    def __init__(
        self,
        layer: Layer,
        eigenvalue_range: tuple[float, float] = (-1, 1),
        heads: int = 4,
        head_size: int | None = None,
        reflections: int = 2,
        forget_gate: bool = False,
        conv_size: int = 4,
        qk_activation: QKActivation = "silu",
        beta_bias: bool = False,
        beta_slope: float = 1.0,
        beta_stretch: float = 0.0,
    ):
        """
        Args:
            layer: Place in the model.
            eigenvalue_range: Range of the eigenvalues of each reflection, [0, 1] or [-1, 1].
            heads: Number of heads.
            head_size: Size of keys, queries and values; when absent, the heads share the width and must divide it.
            reflections: Number of Householder reflections for each token.
            forget_gate: Whether each head has a gate that scales its state before the reflections of a token.
            conv_size: Tokens seen by the short convolution on q, k and v; 0 for none.
            qk_activation: Activation of q and k, silu or identity; identity needs conv_size 0.
            beta_bias: Whether the logits of beta have a bias.
            beta_slope: Factor of the logits of beta. With a steeper sigmoid, beta comes nearer to the ends of its range
                in the same number of steps (results/groups).
            beta_stretch: How far the sigmoid of beta is stretched beyond each end of its range before it is clipped.
                With 0.01, beta reaches the ends exactly, and states last (results/groups); 0 for a plain sigmoid.
        """
        super().__init__()
        width = layer.width
        head_size = size_of_heads(width, heads, head_size)
        if reflections < 1:
            raise ValueError(f"model.reflections: must be at least 1, got {reflections}")
        check_activation(qk_activation, conv_size)
        check_beta(beta_slope, beta_stretch)
        self.heads = heads
        self.reflections = reflections
        self.beta_scale = range_scale(eigenvalue_range)
        self.beta_slope, self.beta_stretch = beta_slope, beta_stretch
        self.qk_activation = qk_activation
        self.form = layer.form
        channels = heads * head_size
        qkv_channels = (1 + 2 * reflections) * channels
        self.splits = [qkv_channels, reflections * heads, heads if forget_gate else 0]
        self.in_proj = Linear(width, sum(self.splits))  # q, k_1, ..., k_n, v_1, ..., v_n, the logits of beta and of g
        self.conv = ShortConvolution(qkv_channels, conv_size, form=layer.form) if qk_activation == "silu" else None
        self.beta_bias = nn.Parameter(torch.zeros(reflections * heads)) if beta_bias else None
        if forget_gate:
            self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
            # softplus(b_dt) starts log-uniform in [1e-3, 1e-1], as in Mamba
            dt = torch.exp(torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)))
            self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.forget_gate = forget_gate
        self.norm = RMSNorm(head_size, layer.norm_eps, layer.form)
        self.out_proj = Linear(channels, width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        conv_state, S = state if state is not None else (None, None)
        qkv, logits, gate, conv_state = self._project(x, conv_state)
        n = self.reflections
        q, k, v = qkv.split([1, n, n], dim=2)
        if self.conv is None:
            v = F.silu(v)
        q = (F.normalize(at_least_float32(q.squeeze(2)), dim=-1) * q.shape[-1] ** -0.5).to(qkv.dtype)
        k = F.normalize(at_least_float32(k), dim=-1).to(qkv.dtype)
        beta = beta_for_rounded_keys(self._beta(logits), k)
        o, S = delta_product(q, k, v, beta, self._log_gate(gate), S, form=self.form)  # o (B, T, heads, d_head)
        return self.out_proj(self.norm(o).flatten(-2)), (conv_state, S)

    def transitions(self, x: Tensor, state: MixerState | None = None) -> HouseholderTransitions:
        """Return the transitions of T tokens, a group for each head, from the arguments of `forward`."""
        qkv, logits, gate, _ = self._project(x, None if state is None else state[0])
        k, log_gate = qkv[:, :, 1 : self.reflections + 1], self._log_gate(gate)
        return HouseholderTransitions(self._beta(logits), k, None if log_gate is None else log_gate.exp())

    def _project(self, x: Tensor, conv_state: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q, k_j and v_j (B, T, 1 + 2 n, heads, d_head), the logits of beta and of g, and the conv state."""
        qkv, logits, gate = self.in_proj(x).split(self.splits, dim=-1)
        if self.conv is not None:
            qkv, conv_state = self.conv(qkv, conv_state)
        else:
            conv_state = empty_state(x)
        return qkv.unflatten(-1, (1 + 2 * self.reflections, self.heads, -1)), logits, gate, conv_state

    def _log_gate(self, gate: Tensor) -> Tensor | None:
        """Return log g (B, T, heads) from its logits, or None without a forget gate."""
        return -self.A_log.exp() * softplus(at_least_float32(gate) + self.dt_bias) if self.forget_gate else None

    def _beta(self, logits: Tensor) -> Tensor:
        """Return beta (B, T, n, heads) from its logits (B, T, n heads)."""
        logits = at_least_float32(logits)
        if self.beta_bias is not None:
            logits = logits + self.beta_bias
        logits = steepen(logits, self.beta_slope).unflatten(-1, (self.reflections, self.heads))
        return beta_from_logits(logits, self.beta_scale, self.beta_stretch)

    @property
    def recurrent_size(self) -> int:
        return self.out_proj.in_features * self.norm.normalized_shape[0]

    @property
    def recurrent_parts(self) -> int:
        return self.heads

    def recurrence_flops(self, context: int) -> int:
        """Count two passes over the state for each reflection, which reads and writes it, and one for q."""
        passes = 2 * self.reflections + 1
        return 2 * passes * self.out_proj.in_features * self.norm.normalized_shape[0]


class DeltaProduct(Architecture, mixer=DeltaProductMixer):
    """DeltaProduct, with or without a forget gate; each reflection has eigenvalues in (0, 1) or (-1, 1)."""
