"""How far states with the same label lie apart, and how far the labels lie apart.

Of N states S_i with labels y_i, let C_y be the mean of the n_y states with label y, and k the number of labels. The
analysis of variance estimates, without bias from small n_y,

    R^2 = sum_i |S_i - C_{y_i}|^2 / (N - k)                          spread within a label
    M^2 = (sum_y n_y |C_y - mean S|^2 / (k - 1) - R^2) / n_0         separation of the labels' mean states
    n_0 = (N - sum_y n_y^2 / N) / (k - 1)

Distances are Euclidean, over all numbers of a state. R and M are those of arXiv 2605.07755 (Chung, Choi and Kim, 2026)
in meaning: a recurrence can be read while R is small beside M. R^2 / M^2 is what the state consistency loss trains.

Only drift along the directions in which the mean states differ can turn one label into another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HELD = 0.999


@dataclass(frozen=True)
class Means:
    """Mean state of each label, at one length."""

    states: Tensor
    """(labels, D), float64; rows without a state are NaN."""

    separation: float
    """M at that length."""

    directions: Tensor
    """Orthonormal directions in which the mean states differ, (r, D); they have HELD of the squared separation."""


def spread_and_separation(states: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return R and M of states (N, D) with labels (N,); NaN where too few states have the same label.

    Args:
        states: states, in any dtype; sums are in float64.
        labels: their labels, numbers from 0.
    """
    states = states.double()
    means, counts = class_means(states, labels)
    N, k = len(states), int((counts > 0).sum())
    if k in (1, N):
        return float("nan"), float("nan")
    R2 = (states - means[labels]).square().sum() / (N - k)
    between = (counts[:, None] * (means.nan_to_num() - states.mean(0)).square())[counts > 0].sum() / (k - 1)
    n_0 = (N - counts.square().sum() / N) / (k - 1)
    return float(R2.sqrt()), float(((between - R2) / n_0).clamp_min(0).sqrt())


def class_means(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean state of each label (labels, D), NaN where there is none, and the numbers of states (labels,)."""
    size = int(labels.max()) + 1
    counts = labels.bincount(minlength=size).to(states.dtype)
    sums = states.new_zeros(size, states.shape[1]).index_add(0, labels, states)
    return sums / counts[:, None], counts


def reference_means(states: Tensor, labels: Tensor) -> Means:
    """Return the mean states, and how far they lie apart, of states (N, D) with labels (N,)."""
    means, counts = class_means(states.double(), labels)
    seen = means[counts > 0]
    _, values, directions = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
    share = values.square().cumsum(0) / values.square().sum()
    return Means(means, spread_and_separation(states, labels)[1], directions[: int((share < HELD).sum()) + 1])


def drift(states: Tensor, labels: Tensor, means: Means) -> tuple[float, float]:
    """Return the root mean square distance of states (N, D) from the mean states of their labels, in two parts.

    States whose labels have no mean state do not count; NaN if none counts.

    Returns:
        the distance along the directions in which the mean states differ, and the distance across them.
    """
    known = torch.isin(labels, (~means.states[:, 0].isnan()).nonzero()[:, 0])
    distance = states[known].double() - means.states[labels[known]]
    along = (distance @ means.directions.mT).square().sum(1).mean()
    across = distance.square().sum(1).mean() - along
    return float(along.sqrt()), float(across.clamp_min(0).sqrt())


def growth_exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """Return p of the power law value ~ length^p that fits best, or None for fewer than two positive values.

    Errors that add up at random grow with p = 1/2, errors that all point the same way with p = 1.
    """
    points = [(n, value) for n, value in zip(lengths, values, strict=True) if value > 0]
    if len({n for n, _ in points}) < 2:
        return None
    x, y = torch.tensor(points, dtype=torch.float64).log().unbind(1)
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))
