"""The diagonal linear RNN of the paper's Figure 1: the smallest model that shows what the eigenvalue range decides.

    h_t = a(x_t) * h_{t-1} + b(x_t) * x_t        y_t = h_t
    a   = sigmoid(10 W x / sqrt(width))          in (0, 1), or tanh of the same, in (-1, 1)
    b   = W' x / sqrt(width)

The steep gates reach the ends of their range early. Unlike the authors' model, the block here has a residual path, as
all of this package do.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrnn.models.backbone import MixerState
from lrnn.models.language_model import LanguageModel
from lrnn.ops import at_least_float32, diagonal_scan, range_scale

STEEPNESS = 10


class DiagonalMixer(nn.Module):
    """x (B, T, width) -> y (B, T, width); the state is h (B, width)."""

    def __init__(self, width: int, eigenvalue_range: Sequence[float]):
        super().__init__()
        self.gate = torch.sigmoid if range_scale(eigenvalue_range) == 1 else torch.tanh
        self.transition_proj = nn.Linear(width, width)
        self.input_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        scale = x.shape[-1] ** -0.5
        a = self.gate(at_least_float32(self.transition_proj(x)) * (STEEPNESS * scale))
        b = at_least_float32(self.input_proj(x)) * scale
        y, h = diagonal_scan(a, b * x, None if state is None else state[0])
        return y, (h,)


class Diagonal(LanguageModel):
    """Diagonal linear RNN with transition eigenvalues in (0, 1) or (-1, 1)."""

    def __init__(
        self, eigenvalue_range: tuple[float, float] = (-1, 1), width: int = 10, norm_eps: float = 1e-6, **kwargs: Any
    ):
        """
        Args:
            eigenvalue_range: of the state transitions, [0, 1] or [-1, 1].
            width: of the residual stream, and of the state.
            norm_eps: epsilon of the RMS norms.
        """

        def make_mixer() -> DiagonalMixer:
            return DiagonalMixer(width, eigenvalue_range)

        super().__init__(make_mixer, width=width, norm_eps=norm_eps, **kwargs)
        self.save_hyperparameters()
