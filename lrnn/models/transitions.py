"""State transitions of linear RNNs, which mixers return for analysis (lrnn/theory/spectra.py).

A mixer that has a transition has a method `transitions(x, state)`, with the arguments of `forward`, that returns one of
the classes here. Each holds a transition for each token and for each of G groups: independent parts of the state, such
as heads or channels. No class here takes part in training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-6  # smaller real and imaginary parts of eigenvalues that were found by iteration become 0


@dataclass(frozen=True)
class DiagonalTransitions:
    """Transitions that multiply each number of the state, or all numbers of a head, by a scalar."""

    values: Tensor
    """The scalars (B, T, G)."""

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues (B, T, G, 1)."""
        return self.values[..., None]

    def matrices(self) -> Tensor:
        """Return the transitions as matrices (B, T, G, 1, 1); a head repeats its scalar on the diagonal."""
        return self.values[..., None, None]

    def over(self, window: int) -> "DiagonalTransitions":
        """Return the products over windows of `window` tokens (B, T // window, G)."""
        return DiagonalTransitions(_windows(self.values, window).prod(2))


@dataclass(frozen=True)
class HouseholderTransitions:
    """Transitions that are, for each token, a product of n factors I - beta k k^T with |k| = 1, times a gate.

    At most n eigenvalues of a product differ from the gate. These are the ones that `eigenvalues` returns.
    """

    beta: Tensor
    """Step sizes (B, T, n, G)."""

    k: Tensor
    """Keys (B, T, n, G, K); the first factor acts first."""

    gate: Tensor | None = None
    """Gates (B, T, G); 1 when absent."""

    def eigenvalues(self) -> Tensor:
        """Return the min(n, K) eigenvalues that need not be equal to the gate, (B, T, G, min(n, K)).

        One factor gives 1 - beta, and two give the roots of a quadratic equation, so that no rounding turns a
        nonnegative eigenvalue into a negative one. Those of more factors are found by iteration.
        """
        beta, n, size = self.beta.transpose(-1, -2), self.k.shape[2], self.k.shape[-1]
        if n == 1:
            values = 1 - beta  # beta is (B, T, G, n)
        elif n == 2 and size >= 2:
            k = self._unit_keys()
            values = _of_two(beta.to(k.dtype), k[..., 0, :], k[..., 1, :])
        else:
            exact = HouseholderTransitions(self.beta.double(), self.k.double())
            values = _by_iteration(exact._on_keys() if n <= size else exact.matrices())
        return values if self.gate is None else values * self.gate[..., None]

    def matrices(self) -> Tensor:
        """Return the transitions as matrices (B, T, G, K, K)."""
        k, beta = self._unit_keys(), self.beta.transpose(-1, -2)[..., None, None]  # beta (B, T, G, n, 1, 1)
        M = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device).expand(*k.shape[:3], -1, -1)
        for j in range(k.shape[3]):
            column = k[..., j, :, None]
            M = M - beta[..., j, :, :] * column @ (column.mT @ M)
        return M if self.gate is None else M * self.gate[..., None, None]

    def over(self, window: int) -> "HouseholderTransitions":
        """Return the products over windows of `window` tokens, each with window * n factors."""
        gate = None if self.gate is None else _windows(self.gate, window).prod(2)
        return HouseholderTransitions(
            _windows(self.beta, window).flatten(2, 3), _windows(self.k, window).flatten(2, 3), gate
        )

    def _unit_keys(self) -> Tensor:
        """Return the keys (B, T, G, n, K), at length 1 also where they were rounded to 16 bits."""
        dtype = torch.promote_types(self.k.dtype, torch.float32)
        return torch.nn.functional.normalize(self.k.to(dtype), dim=-1).transpose(2, 3)

    def _on_keys(self) -> Tensor:
        """Return matrices (B, T, G, n, n) with the eigenvalues of the products on the span of their keys.

        The product is I - K^T C K with the keys as rows of K and C = (I + tril(diag(beta) K K^T, -1))^-1 diag(beta),
        and C K K^T has the eigenvalues of K^T C K that are not 0.
        """
        k = self._unit_keys()
        scaled = self.beta.transpose(-1, -2)[..., None] * (k @ k.mT)
        eye = torch.eye(k.shape[3], dtype=k.dtype, device=k.device)
        return eye - torch.linalg.solve_triangular(scaled.tril(-1), scaled, upper=False, unitriangular=True)


@dataclass(frozen=True)
class MatrixTransitions:
    """Transitions that are full matrices."""

    A: Tensor
    """The matrices (B, T, G, n, n)."""

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues (B, T, G, n), complex."""
        return _by_iteration(self.A.double())

    def matrices(self) -> Tensor:
        """Return the matrices (B, T, G, n, n)."""
        return self.A

    def over(self, window: int) -> "MatrixTransitions":
        """Return the products over windows of `window` tokens (B, T // window, G, n, n)."""
        first, *others = _windows(self.A, window).unbind(2)
        for A in others:
            first = A @ first
        return MatrixTransitions(first)


def _windows(x: Tensor, window: int) -> Tensor:
    """Cut (B, T, ...) into windows (B, T // window, window, ...); the last T % window tokens are left out."""
    count = x.shape[1] // window
    return x[:, : count * window].unflatten(1, (count, window))


def _of_two(beta: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the two eigenvalues of a product of two factors on the plane of their keys, (..., 2).

    Their product is (1 - b_1) (1 - b_2) and their sum 2 - b_1 - b_2 + b_1 b_2 c^2, where c is the cosine of the angle
    between the keys and s its sine. The discriminant is written so that nothing cancels if the keys are nearly equal:

        4 root = (b_1 - b_2)^2 + b_1 b_2 c^2 ((2 - b_1) (2 - b_2) - b_1 b_2 s^2)

    If no b is above 1, both eigenvalues are real and nonnegative (Proposition 1).
    """
    b1, b2 = beta.unbind(-1)
    cosine = (first * second).sum(-1, keepdim=True)
    square, sine = cosine[..., 0].square(), (first - cosine * second).square().sum(-1)
    root = ((b1 - b2).square() + b1 * b2 * square * ((2 - b1) * (2 - b2) - b1 * b2 * sine)) / 4
    half = 1 - (b1 + b2 - b1 * b2 * square) / 2
    shrink = (beta <= 1).all(-1)
    root = torch.where(shrink, root.clamp_min(0), root)
    half = torch.where(shrink, half.clamp_min(0), half)
    distance = root.abs().sqrt()
    large = half + torch.where(half < 0, -distance, distance)
    small = torch.where(large == 0, 0, (1 - b1) * (1 - b2) / large)  # half - distance would cancel
    turns = (root < 0)[..., None]
    real = torch.where(turns, half[..., None], torch.stack([large, small], -1))
    return torch.complex(real, torch.where(turns, torch.stack([distance, -distance], -1), 0))


def _by_iteration(M: Tensor) -> Tensor:
    """Return the eigenvalues of matrices (..., n, n), found on the CPU: a GPU takes the matrices one by one."""
    values = torch.linalg.eigvals(M.cpu())
    real = torch.where(values.real.abs() < ROUNDING, 0, values.real)
    imaginary = torch.where(values.imag.abs() < ROUNDING, 0, values.imag)
    return torch.complex(real, imaginary).to(M.device, torch.complex64)
