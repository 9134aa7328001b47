"""The full-matrix baseline of the paper's Section 5.2: one layer, and a learned transition matrix for every token.

    H_0 = I        H_t = A[x_t] H_{t-1}        logits_t = W project(flatten(H_t))        project(h) = h / max(1, |h|)

A[x] is n x n, with n = 32 in the paper. The table A has a matrix for each token, without a bound on its eigenvalues.
There is no embedding, no norm, no residual path and no input to the state. If the matrices are the permutation matrices
of a group's elements, the model is exact; so it can represent any group of permutations of n points.

Products of many matrices outgrow floating point, and shrink below it. So the product is held as 2^e H, with a whole
number e. Where the norm of H exceeds 2^20 or falls below 1/2, a power of two moves from H to e.

The paper states no initialisation. Here every matrix starts as a random rotation or reflection, so that products of any
length start with singular values of 1.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lrnn.models.language_model import LanguageModel
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.models.transitions import MatrixTransitions
from lrnn.ops import at_least_float32
from lrnn.ops.common.form import choose_form

SMALLEST_NORM, LARGEST_NORM = 0.5, 2.0**20
LARGEST_SHIFT = 100  # float32 holds powers of two from 2^-126 to 2^127


class MatrixProductMixer(Mixer):
    """Running product of matrices; its state is e (B, 1, 1) and H (B, n, n) of the product 2^e H."""

    def __init__(self, layer: Layer):
        """
        Args:
            layer: Place in the model, whose width is n^2.
        """
        super().__init__()
        self.size = round(layer.width**0.5)
        self.form = layer.form

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        """Map matrices, flattened, (B, T, n^2), to their projected running products, flattened in the same way."""
        choose_form("matrix_product", self.form, [x], pytorch=("recurrent",))
        n, A = self.size, at_least_float32(x)
        if state is None:
            e, H = A.new_zeros(len(x), 1, 1), torch.eye(n, dtype=A.dtype, device=x.device).expand(len(x), n, n)
        else:
            e, H = state
        exponents, states = [], []
        with torch.autocast(x.device.type, enabled=False):  # the state stays in float32
            for A_t in A.unflatten(-1, (n, n)).unbind(1):
                e, H = _rescale(e, A_t @ H)
                exponents.append(e)
                states.append(H)
            h = torch.stack(states, 1).flatten(2)
            # of the unit ball, 2^-e; it is infinite, and the output 0, where the product is too small for float32
            radius = torch.cat(exponents, 1).clamp_max(LARGEST_SHIFT).neg().exp2()
            return (h / h.norm(dim=-1, keepdim=True).clamp_min(radius)).to(x.dtype), (e, H)

    @property
    def recurrent_size(self) -> int:
        return self.size**2

    def transitions(self, x: Tensor, state: MixerState | None = None) -> MatrixTransitions:
        """Return the matrices A of T tokens, one group, from the arguments of `forward`."""
        return MatrixTransitions(x.unflatten(-1, (1, self.size, self.size)))

    def recurrence_flops(self, context: int) -> int:
        """Count the product A H."""
        return 2 * self.size**3


def _rescale(e: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same product 2^e H with the norm of H in [1, 2), if it was above LARGEST_NORM or below SMALLEST_NORM.

    The powers of two are constants for the gradient.
    """
    norm = torch.linalg.matrix_norm(H.detach(), keepdim=True)
    shift = torch.where((norm > LARGEST_NORM) | (norm < SMALLEST_NORM), norm.log2().floor(), 0)
    shift = shift.clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
    return e + shift, H * shift.neg().exp2()


class Sum(nn.Module):
    """Sum x + y of the residual stream and a branch, both (B, T, size), in the place of a norm."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        s = x + y
        return s, s


class TokenMatrices(LanguageModel):
    """Linear RNN with a learned transition matrix for every token, the paper's full-matrix baseline on groups."""

    def __init__(self, matrix_size: int = 32, **kwargs: Any):
        """
        Args:
            matrix_size: Number of rows and columns n of each token's matrix.
            **kwargs: Options of every model (lrnn.models.LanguageModel) that concern vocabulary, form and optimizer.

        Raises:
            ValueError: if an option is out of its range.
        """
        if matrix_size < 1:
            raise ValueError(f"model.matrix_size: must be at least 1, got {matrix_size}")
        super().__init__(
            MatrixProductMixer,
            width=matrix_size**2,
            layers=1,
            mlp_width=None,
            channel_mixer=None,
            norm="rms",
            norm_eps=0.0,
            residual=False,
            init_std=None,
            tie_embeddings=False,
            **kwargs,
        )
        self.backbone.blocks[0].mixer_norm = self.backbone.norm = Sum()
        with torch.no_grad():
            for row in self.backbone.embedding.weight:
                nn.init.orthogonal_(row.view(matrix_size, matrix_size))
        self.record_options({"matrix_size": matrix_size, **kwargs})

    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters with and without weight decay. The embedding holds matrices, and decays as they do."""
        decayed, kept = super().decay_groups()
        matrices = list(self.backbone.embedding.parameters())
        return [*decayed, *matrices], [parameter for parameter in kept if parameter is not matrices[0]]
