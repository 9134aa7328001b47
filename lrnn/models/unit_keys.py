"""What DeltaNet and DeltaProduct share: heads with keys of length 1."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lrnn.ops import at_least_float32, check_choice

QKActivation = Literal["silu", "identity"]


def size_of_heads(width: int, heads: int, head_size: int | None) -> int:
    """Return the size of each head: `head_size`, or an equal share of the width when that is absent.

    Raises:
        ValueError: if there is no head, if the heads do not divide the width, or if their size is below 1.
    """
    if heads < 1 or (head_size is None and width % heads):
        raise ValueError(f"model.heads: must divide model.width ({width}), got {heads}")
    if head_size is None:
        return width // heads
    if head_size < 1:
        raise ValueError(f"model.head_size: must be at least 1, got {head_size}")
    return head_size


def check_beta(beta_slope: float, beta_stretch: float) -> None:
    """Refuse a slope or a stretch of beta that it can't have.

    Raises:
        ValueError: if `beta_slope` is not above 0, `beta_stretch` is below 0, or one of them is not finite.
    """
    if not 0 < beta_slope < math.inf:
        raise ValueError(f"model.beta_slope: must be above 0 and finite, got {beta_slope}")
    if not 0 <= beta_stretch < math.inf:
        raise ValueError(f"model.beta_stretch: must be at least 0 and finite, got {beta_stretch}")


def check_activation(qk_activation: QKActivation, conv_size: int) -> None:
    """Refuse an activation that there is not, and a convolution where q and k have none: it ends in SiLU.

    Raises:
        ValueError: if the activation is unknown, or `conv_size` is not 0 with the activation identity.
    """
    check_choice("model.qk_activation", qk_activation, get_args(QKActivation))
    if qk_activation == "identity" and conv_size:
        raise ValueError(f"model.conv_size: must be 0 with model.qk_activation identity, got {conv_size}")


def steepen(logits: Tensor, beta_slope: float) -> Tensor:
    """Return the logits of beta (...), or the weights that they come from, times the slope; themselves if it is 1."""
    return logits if beta_slope == 1 else beta_slope * logits


def beta_from_logits(logits: Tensor, scale: float, stretch: float) -> Tensor:
    """Return beta = s clip((1 + 2 d) sigmoid(z) - d, 0, 1) from its logits z (...), in their dtype.

    A sigmoid never reaches 0 or 1. With beta short of 2 by 2e-5, a reflected state fades by 2e-5 at every token. A
    stretched and clipped sigmoid (hard concrete; Louizos et al. 2018) reaches the ends of its range. A transition can
    then be orthogonal.

    Args:
        logits: z.
        scale: s, 1 for eigenvalues in [0, 1] and 2 for [-1, 1].
        stretch: d, how far the sigmoid is stretched beyond each end before it is clipped; 0 for a plain sigmoid.
    """
    share = torch.sigmoid(logits)
    if stretch:
        share = ((1 + 2 * stretch) * share - stretch).clamp(0, 1)
    return scale * share


def beta_for_rounded_keys(beta: Tensor, k: Tensor, k_square: Tensor | None = None) -> Tensor:
    """Return beta (...) divided by |k|^2 if the keys k (..., K) are in 16 bits, else beta itself.

    A key that is rounded to 16 bits does not have exactly length 1, and a state that it reflects would grow or fade.

    Args:
        beta: step sizes.
        k: keys.
        k_square: |k|^2 (...), without a gradient; computed from `k` when absent.
    """
    if k.element_size() >= 4:
        return beta
    if k_square is None:
        k_square = at_least_float32(k.detach()).square().sum(-1)
    return beta / k_square.clamp_min(0.5)
