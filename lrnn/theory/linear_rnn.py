"""A small explicit linear RNN, for constructions whose form no architecture here has.

    h_t = A(x_t) h_{t-1} + b(x_t)        y_t = decode(h_t, x_t)

is the paper's layer (Grazzi et al. 2025, Equation 1), with finitely many inputs x_t, so that A, b and the decoder are
tables. The decoder compares linear functions of h_t, and looks up the largest one. The output of a layer is the input
of the next.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """One layer with I inputs, a state of n numbers, C candidates that the decoder compares, and O outputs.

    A and b may be of any floating-point dtype, which is the dtype of the state too: it is rounded after every token.
    The decoder works in the dtype of its directions.
    """

    A: Tensor
    """Transition of each input (I, n, n)."""

    b: Tensor
    """Input term of each input (I, n)."""

    initial: Tensor
    """State before the first token (n,)."""

    directions: Tensor
    """Linear functions that the decoder compares (C, n)."""

    outputs: Tensor
    """Output for each input and each candidate (I, C), int64; -1 for a candidate that this input leaves out."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Layer":
        """Return the layer on a device, and in a dtype if one is given."""
        return replace(
            self,
            **{name: getattr(self, name).to(device, dtype) for name in ("A", "b", "initial")},
            directions=self.directions.to(device),
            outputs=self.outputs.to(device),
        )

    def read(self, inputs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Read T tokens.

        Args:
            inputs: numbers of the inputs (W, T), int64.
            h: states before them (W, n).

        Returns:
            outputs (W, T), and the states after the last token (W, n).
        """
        h = h[..., None]
        states = []
        for A_t, b_t in zip(self.A[inputs.T], self.b[inputs.T][..., None], strict=True):  # (W, n, n) and (W, n, 1)
            h = torch.baddbmm(b_t, A_t, h)
            states.append(h)
        scores = torch.stack(states, 1)[..., 0].to(self.directions.dtype) @ self.directions.T  # (W, T, C)
        if (self.outputs < 0).any():
            scores = scores.masked_fill(self.outputs[inputs] < 0, -torch.inf)
        candidate = scores.argmax(-1)
        return self.outputs[inputs, candidate], h[..., 0]


@dataclass(frozen=True)
class LinearRNN:
    """A stack of layers, as a machine that reads letters and says what an automaton says (lrnn/theory/check.py)."""

    layers: tuple[Layer, ...]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "LinearRNN":
        return LinearRNN(tuple(layer.to(device, dtype) for layer in self.layers))

    def start(self, words: int) -> tuple[Tensor, ...]:
        """Return the states of all layers before the first token, each (words, n)."""
        return tuple(layer.initial.expand(words, -1) for layer in self.layers)

    def read(self, letters: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read letters (W, T); return the outputs of the last layer (W, T) and the states of all layers."""
        states = []
        for layer, h in zip(self.layers, state, strict=True):
            letters, h = layer.read(letters, h)
            states.append(h)
        return letters, tuple(states)

    def features(self, state: Any) -> Tensor:
        """Return the state of the last layer (W, n)."""
        return state[-1]


def parity_rnn() -> LinearRNN:
    """Make parity with one number: h starts at 1, and letter 1 multiplies it by -1 (Theorem 3)."""
    return _one_layer([[[1.0]], [[-1.0]]], [1.0], [[1.0], [-1.0]])


def permutation_rnn(permutations: Sequence[Sequence[int]]) -> LinearRNN:
    """Make a permutation group: h starts at (1, ..., n), and element a moves entry i to place a(i) (Theorem 3)."""
    n = len(permutations[0])
    A = torch.zeros(len(permutations), n, n)
    for a, permutation in enumerate(permutations):
        A[a, list(permutation), list(range(n))] = 1
    initial = torch.arange(1.0, n + 1)
    return _one_layer(A, initial, A @ initial)


def rotation_rnn(modulus: int) -> LinearRNN:
    """Make addition modulo m: h starts at (1, 0), and letter a turns it by 2 pi a / m (Theorem 3)."""
    angle = 2 * math.pi * torch.arange(modulus, dtype=torch.float64) / modulus
    points = torch.stack([angle.cos(), angle.sin()], 1)  # (m, 2)
    A = torch.stack([points, torch.stack([-angle.sin(), angle.cos()], 1)], 2)
    return _one_layer(A, [1.0, 0.0], points)


def reflection_rnn(modulus: int) -> LinearRNN:
    """Make addition modulo m in two layers of reflections (Theorem 6). The first counts t mod 2, as h = -h from 1."""
    m = modulus
    x = torch.arange(m)
    parity = Layer(
        A=torch.full((m, 1, 1), -1.0),
        b=torch.zeros(m, 1),
        initial=torch.ones(1),
        directions=torch.tensor([[1.0], [-1.0]]),
        outputs=torch.stack([x, x + m], 1),
    )
    odd = torch.arange(2 * m) >= m
    angle = torch.where(odd, 1 - 2 * (x.repeat(2)), 1 + 2 * x.repeat(2)).double() * math.pi / m
    cos, sin = angle.cos(), angle.sin()
    H = torch.stack([torch.stack([cos, sin], 1), torch.stack([sin, -cos], 1)], 1)
    d = 2 * math.pi * x.double() / m
    points = torch.cat([d, math.pi / m - d])
    directions = torch.stack([points.cos(), points.sin()], 1)
    answers = torch.cat([x, x]).expand(2 * m, -1)
    circle = Layer(H.float(), torch.zeros(2 * m, 2), torch.tensor([1.0, 0.0]), directions.float(), answers)
    return LinearRNN((parity, circle))


def _one_layer(A: Any, initial: Any, directions: Any) -> LinearRNN:
    """Make a layer without input terms, in float32, whose output is the number of the nearest direction."""
    A, initial, directions = (torch.as_tensor(x).float() for x in (A, initial, directions))
    outputs = torch.arange(len(directions)).expand(len(A), -1)
    return LinearRNN((Layer(A, torch.zeros(A.shape[:2]), initial, directions, outputs),))
