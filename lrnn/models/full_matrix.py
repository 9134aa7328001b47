"""The linear RNN with a full transition matrix for every token: as expressive as a linear RNN gets, and as costly.

    h_t = A(x_t) h_{t-1} + B(x_t) x_t        y_t = h_t
    A   = (W x + c) / sqrt(width), as a matrix, and B likewise

Nothing bounds the eigenvalues of A, so there is no range to choose, and a state may outgrow floating point on long
sequences. The width^2 numbers of A a token leave no form faster than a loop. Unlike the authors' model, the block here
has a residual path, as all of this package do.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lrnn.models.backbone import MixerState
from lrnn.models.language_model import LanguageModel
from lrnn.ops import at_least_float32


class FullMatrixMixer(nn.Module):
    """x (B, T, width) -> y (B, T, width); the state is h (B, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.transition_proj = nn.Linear(width, width * width)
        self.input_proj = nn.Linear(width, width * width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
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

    def recurrence_flops(self, context: int) -> int:
        """A token's, forward, beside the weights': A h and B x."""
        return 4 * self.input_proj.in_features**2


class FullMatrix(LanguageModel):
    """Linear RNN with a full, unbounded transition matrix."""

    def __init__(self, width: int = 10, norm_eps: float = 1e-6, **kwargs: Any):
        """
        Args:
            width: of the residual stream, and of the state.
            norm_eps: epsilon of the RMS norms.
        """

        def make_mixer() -> FullMatrixMixer:
            return FullMatrixMixer(width)

        super().__init__(make_mixer, width=width, norm_eps=norm_eps, **kwargs)
        self.save_hyperparameters()
