"""Mamba (Gu & Dao 2023): a diagonal state whose decay depends on the token.

    u, z     = W_in x                     u = SiLU(conv(u))
    r, B, C  = W_x u                      dt = softplus(W_dt r + b_dt)
    y        = W_out (selective_scan(u, dt, A, B, C, D) * SiLU(z))        A = -exp(A_log)

With eigenvalue range (-1, 1) the transition becomes 2 exp(dt A) - 1; the input term stays as it is
(paper, Figure 11).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrnn.models.architecture import Architecture
from lrnn.models.auxiliary_terms import Terms
from lrnn.models.gate_saturation import saturation_of_decay
from lrnn.models.layers import Linear, ShortConvolution
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.models.transitions import DiagonalTransitions
from lrnn.ops import at_least_float32, range_scale, selective_scan, step_sizes


class MambaMixer(Mixer):
    """Mixer of Mamba; its state is that of the convolution and h (B, D, N) with D = expand * width."""

    def __init__(
        self,
        layer: Layer,
        eigenvalue_range: tuple[float, float] = (-1, 1),
        state_size: int = 16,
        expand: int = 2,
        conv_size: int = 4,
        dt_scale: float = 1.0,
        gate_saturation: float = 0.0,
    ):
        """
        Args:
            layer: Place in the model.
            eigenvalue_range: Range of the eigenvalues of the state transitions, [0, 1] or [-1, 1].
            state_size: Number of states of each channel, N.
            expand: Channels of the state, as a multiple of the width.
            conv_size: Tokens seen by the short convolution; 0 for none.
            dt_scale: Scale of the initial weights that make dt depend on the token. With a large scale, transitions
                differ from token to token when training starts, and some of them are near -1.
            gate_saturation: Strength of the term that pushes the transitions onto the ends of their range; 0 for none
                (lrnn/models/gate_saturation.py).
        """
        super().__init__()
        for name, value in (("state_size", state_size), ("expand", expand)):
            if value < 1:
                raise ValueError(f"model.{name}: must be at least 1, got {value}")
        if gate_saturation < 0:
            raise ValueError(f"model.gate_saturation: must be at least 0, got {gate_saturation}")
        range_scale(eigenvalue_range)  # refuses any other range
        self.gate_saturation = gate_saturation
        self.has_auxiliary_terms = gate_saturation > 0
        self.form = layer.form
        self.eigenvalue_range = eigenvalue_range
        channels, dt_rank = expand * layer.width, math.ceil(layer.width / 16)
        self.splits = [dt_rank, state_size, state_size]
        self.in_proj = Linear(layer.width, 2 * channels)
        self.conv = ShortConvolution(channels, conv_size, bias=True, form=layer.form)
        self.x_proj = Linear(channels, sum(self.splits))
        self.dt_weight = nn.Parameter(torch.empty(channels, dt_rank).uniform_(-1, 1) * dt_scale * dt_rank**-0.5)
        # dt starts log-uniform in [1e-3, 1e-1]: its bias is the inverse of softplus there
        dt = torch.exp(torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, state_size + 1)).repeat(channels, 1))
        self.A_log.no_weight_decay = True  # type: ignore[attr-defined]
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = Linear(channels, layer.width)

    def forward(
        self, x: Tensor, state: MixerState | None = None, terms: Terms | None = None
    ) -> tuple[Tensor, MixerState]:
        conv_state, h = state if state is not None else (None, None)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, conv_state = self.conv(u, conv_state)
        r, B, C = self.x_proj(u).split(self.splits, dim=-1)
        A = -torch.exp(at_least_float32(self.A_log))
        dt = F.linear(r, self.dt_weight)
        if terms is not None:
            terms["gate_saturation"] = saturation_of_decay(step_sizes(dt, self.dt_bias), A, self.gate_saturation)
        y, h = selective_scan(u, dt, A, B, C, self.D, self.eigenvalue_range, h, dt_bias=self.dt_bias, form=self.form)
        return self.out_proj(y * F.silu(z)), (conv_state, h)

    def transitions(self, x: Tensor, state: MixerState | None = None) -> DiagonalTransitions:
        """Return the transitions a of T tokens, a group for each number of h, from the arguments of `forward`."""
        u, _ = self.conv(self.in_proj(x).chunk(2, dim=-1)[0], None if state is None else state[0])
        r = self.x_proj(u).split(self.splits, dim=-1)[0]
        dt = step_sizes(F.linear(r, self.dt_weight), self.dt_bias)
        s = range_scale(self.eigenvalue_range)
        a = s * torch.exp(dt[..., None] * -torch.exp(at_least_float32(self.A_log))) - (s - 1)
        return DiagonalTransitions(a.flatten(2))

    @property
    def recurrent_size(self) -> int:
        return self.A_log.numel()

    def recurrence_flops(self, context: int) -> int:
        """Count about 9 operations for each number of the state."""
        return 9 * self.A_log.numel()


class Mamba(Architecture, mixer=MambaMixer, norm_eps=1e-5):
    """Mamba with transition eigenvalues in (0, 1) or (-1, 1)."""
