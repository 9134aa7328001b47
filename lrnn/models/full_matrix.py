"""The linear RNN with a full transition matrix for every token: as expressive as a linear RNN gets, and as costly.

    h_t = A(x_t) h_{t-1} + B(x_t) x_t        y_t = h_t
    A   = (W x + c) / sqrt(width), as a matrix, and B likewise

Nothing bounds the eigenvalues of A, so there is no range to choose, and a state may outgrow floating point on long
sequences. Since A has width^2 numbers for each token, no form is faster than a loop. The authors' model has no residual
path. The block here has one, like all blocks of this package, unless `residual` is false.
"""

import torch
from torch import Tensor, nn

from lrnn.models.architecture import Architecture
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.models.transitions import MatrixTransitions
from lrnn.ops import at_least_float32
from lrnn.ops.common.form import choose_form


class FullMatrixMixer(Mixer):
    """Mixer with a full transition matrix; its state is h (B, width)."""

    def __init__(self, layer: Layer):
        """
        Args:
            layer: Place in the model; the state is as wide as the hidden states.
        """
        super().__init__()
        width = layer.width
        self.form = layer.form
        self.transition_proj = nn.Linear(width, width * width)
        self.input_proj = nn.Linear(width, width * width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        choose_form("full_matrix", self.form, [x], pytorch=("recurrent",))
        B, T, width = x.shape
        A, B_ = (
            at_least_float32(proj(x)).view(B, T, width, width) * width**-0.5
            for proj in (self.transition_proj, self.input_proj)
        )
        h = A.new_zeros(B, width) if state is None else state[0]
        states = []
        with torch.autocast(x.device.type, enabled=False):  # the state stays in float32
            inputs = (B_ @ x.to(B_.dtype)[..., None])[..., 0]  # (B, T, width)
            for A_t, input_t in zip(A.unbind(1), inputs.unbind(1), strict=True):
                h = torch.baddbmm(input_t[..., None], A_t, h[..., None])[..., 0]
                states.append(h)
        return torch.stack(states, 1), (h,)

    def transitions(self, x: Tensor, state: MixerState | None = None) -> MatrixTransitions:
        """Return the matrices A of T tokens, one group, from the arguments of `forward`."""
        width = x.shape[-1]
        A = at_least_float32(self.transition_proj(x)).unflatten(-1, (1, width, width))
        return MatrixTransitions(A * width**-0.5)

    @property
    def recurrent_size(self) -> int:
        return self.input_proj.in_features

    def recurrence_flops(self, context: int) -> int:
        """Count the products A h and B x."""
        return 4 * self.input_proj.in_features**2


class FullMatrix(Architecture, mixer=FullMatrixMixer, width=10):
    """Linear RNN with a full, unbounded transition matrix."""
