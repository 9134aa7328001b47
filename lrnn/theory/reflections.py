"""Matrices as products of generalized Householder matrices I - beta k k^T with |k| = 1 (Proposition 1).

A factorisation is a list of (beta, k), the factor that acts first in front. All of it is in float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Factor = tuple[float, Tensor]  # beta in [0, 2], and k (n,) of length 1


def product(factors: Sequence[Factor], n: int) -> Tensor:
    """Multiply factors: (n, n)."""
    M = torch.eye(n, dtype=torch.float64)
    for beta, k in factors:
        M = M - beta * torch.outer(k, k @ M)
    return M


def swaps_of(permutation: Sequence[int]) -> list[Factor]:
    """Write the permutation matrix that moves point i to permutation[i] as swaps: n less the number of cycles, so < n.

    A cycle of c points takes c - 1 swaps: k reflections move k + 1 points.
    """
    n = len(permutation)
    place, factors = list(range(n)), []  # place[i]: where point i is so far
    for i in range(n):
        here, there = place[i], permutation[i]
        if here != there:
            factors.append((2.0, _difference(n, here, there)))
            place = [{here: there, there: here}.get(p, p) for p in place]
    return factors


def reflections_of(Q: Tensor) -> list[Factor]:
    """Write an orthogonal matrix (n, n) as at most n reflections."""
    M, factors = Q.double().clone(), []
    for i in range(len(M)):
        k = M[:, i].clone()
        k[i] -= 1
        if k.norm() > 1e-9:  # a reflection that takes column i to the i-th axis
            factors.append((2.0, k / k.norm()))
            M = M - 2 * torch.outer(factors[-1][1], factors[-1][1] @ M)
    return factors[::-1]


def contraction_factors(M: Tensor) -> list[Factor]:
    """Write a matrix (n, n) of norm at most 1 as at most 3 n factors, by its singular value decomposition.

    Raises:
        ValueError: if the norm is above 1.
    """
    U, singular, Vh = torch.linalg.svd(M.double())
    if singular[0] > 1 + 1e-9:
        raise ValueError(f"contraction_factors: the norm must be at most 1, got {float(singular[0]):.6g}")
    axes = torch.eye(len(M), dtype=torch.float64)
    shrink = [(float(1 - s), axis) for s, axis in zip(singular, axes, strict=True)]
    return [*reflections_of(Vh), *shrink, *reflections_of(U)]


def random_product(
    n: int, factors: int, eigenvalue_range: tuple[float, float], generator: torch.Generator, count: int = 1
) -> Tensor:
    """Draw products of factors with eigenvalues in [0, 1] or [-1, 1]: (count, n, n)."""
    k = torch.nn.functional.normalize(torch.randn(count, factors, n, dtype=torch.float64, generator=generator), dim=-1)
    top = 1 - eigenvalue_range[0]
    beta = top * torch.rand(count, factors, 1, 1, dtype=torch.float64, generator=generator)
    M = torch.eye(n, dtype=torch.float64).repeat(count, 1, 1)
    for j in range(factors):
        column = k[:, j, :, None]
        M = M - beta[:, j] * column @ (column.mT @ M)
    return M


def _difference(n: int, i: int, j: int) -> Tensor:
    k = torch.zeros(n, dtype=torch.float64)
    k[i], k[j] = 0.5**0.5, -(0.5**0.5)
    return k
