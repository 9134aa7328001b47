"""A small explicit linear RNN, for constructions whose form no architecture here has.

    h_t = A(x_t) h_{t-1} + b(x_t)        y_t = decode(h_t, x_t)

is the paper's layer (Grazzi et al. 2025, Equation 1), with finitely many inputs x_t, so that A, b and the decoder are
tables. The decoder compares linear functions of h_t, and looks up the largest one. The output of a layer is the input
of the next.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """One layer with I inputs, a state of n numbers, C candidates that the decoder compares, and O outputs.

    The matrices may be of any floating-point dtype, which is the dtype of the state too. The products are rounded to it
    after every token.
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
            **{name: getattr(self, name).to(device, dtype) for name in ("A", "b", "initial", "directions")},
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
        scores = torch.stack(states, 1)[..., 0] @ self.directions.T  # (W, T, C)
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
