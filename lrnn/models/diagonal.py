"""The diagonal linear RNN of the paper's Figure 1: the smallest model that shows what the eigenvalue range decides.

    h_t = a(x_t) * h_{t-1} + b(x_t) * x_t        y_t = h_t
    a   = sigmoid(10 (W x + c) / sqrt(width))    in (0, 1), or tanh of the same, in (-1, 1)
    b   = (W' x + c') / sqrt(width)

The factor 10 makes the gates steep, so that they soon reach the ends of their range. The authors' model has no residual
path. The block here has one, like all blocks of this package, unless `residual` is false.
"""

import torch
from torch import Tensor, nn

from lrnn.models.architecture import Architecture
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.models.transitions import DiagonalTransitions
from lrnn.ops import at_least_float32, diagonal_scan, range_scale

STEEPNESS = 10


class DiagonalMixer(Mixer):
    """Mixer of the diagonal linear RNN; its state is h (B, width)."""

    def __init__(self, layer: Layer, eigenvalue_range: tuple[float, float] = (-1, 1)):
        """
        Args:
            layer: Place in the model; the state is as wide as the hidden states.
            eigenvalue_range: Range of the eigenvalues of the state transitions, [0, 1] or [-1, 1].
        """
        super().__init__()
        self.form = layer.form
        self.gate = torch.sigmoid if range_scale(eigenvalue_range) == 1 else torch.tanh
        self.transition_proj = nn.Linear(layer.width, layer.width)
        self.input_proj = nn.Linear(layer.width, layer.width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        scale = x.shape[-1] ** -0.5
        a = self.transitions(x).values
        b = at_least_float32(self.input_proj(x)) * scale
        y, h = diagonal_scan(a, b * x, None if state is None else state[0], form=self.form)
        return y, (h,)

    def transitions(self, x: Tensor, state: MixerState | None = None) -> DiagonalTransitions:
        """Return the transitions a of T tokens, a group for each number of h, from the arguments of `forward`."""
        scale = x.shape[-1] ** -0.5
        return DiagonalTransitions(self.gate(at_least_float32(self.transition_proj(x)) * (STEEPNESS * scale)))

    @property
    def recurrent_size(self) -> int:
        return self.input_proj.out_features


class Diagonal(Architecture, mixer=DiagonalMixer, width=10):
    """Diagonal linear RNN with transition eigenvalues in (0, 1) or (-1, 1)."""
