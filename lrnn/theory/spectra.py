"""Eigenvalues of a model's state transitions: of single tokens, and of products over windows of tokens.

This module meets a model through a written contract: a mixer, any module inside the model, has a method `transitions`
with the arguments of its `forward`, and returns `Transitions`. lrnn/models/transitions.py keeps it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

LONGEST = 2.0**24  # tokens; float32 tells no slower decay from none


class Transitions(Protocol):
    """State transitions of B sequences of T tokens, each with G independent parts, such as heads or channels."""

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues (B, T, G, n), real or complex.

        If a transition is a gate times I - M, with M of rank n, the eigenvalues that equal the gate are left out.
        """

    def matrices(self) -> Tensor:
        """Return the transitions as matrices (B, T, G, m, m)."""

    def over(self, window: int) -> "Transitions":
        """Return the products over windows of so many tokens; T becomes T // window, and a rest is left out."""


@dataclass(frozen=True)
class Summary:
    """What eigenvalues say about a layer, or about several."""

    least: float
    """Least real part."""

    share_negative: float
    """Share that is real and negative."""

    share_complex: float
    """Share that is not real."""

    distance_from_1: float
    """Mean of | |eigenvalue| - 1 |."""

    horizon: float
    """Tokens in which the slowest part of a state falls to half: log 2 / mean(-log |eigenvalue|), at most 2^24.

    Only parts that change sign or turn are compared: those of whose eigenvalues at least 1 in 100 is negative or
    complex. If there are none, all parts are compared. A part that only keeps its value counts nothing.
    """


def transitions(model: nn.Module, tokens: Tensor) -> dict[str, Transitions]:
    """Return the transitions of each mixer, by its name in the model, as it reads tokens (B, T) from the start.

    Raises:
        ValueError: if no module of the model has transitions.
    """
    found: dict[str, Transitions] = {}

    def keep(name: str, mixer: Any, arguments: tuple[Any, ...]) -> None:
        found[name] = mixer.transitions(*arguments[:2])

    mixers = {name: module for name, module in model.named_modules() if hasattr(module, "transitions")}
    if not mixers:
        raise ValueError(f"model: {type(model).__name__} has no layer with a linear state transition")
    hooks = [module.register_forward_pre_hook(partial(keep, name)) for name, module in mixers.items()]
    try:
        with torch.no_grad():
            model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def eigenvalues(model: nn.Module, tokens: Tensor, window: int = 1) -> dict[str, Tensor]:
    """Return the eigenvalues (B, T // window, G, n) of each mixer's transitions, or of their products over windows.

    Args:
        model: a model of token ids.
        tokens: token ids (B, T).
        window: tokens of a product.

    Raises:
        ValueError: if no module of the model has transitions, or the window is below 1 or above T.
    """
    if not 1 <= window <= tokens.shape[1]:
        raise ValueError(f"window: must be from 1 to the number of tokens, {tokens.shape[1]}, got {window}")
    return {name: one.over(window).eigenvalues() for name, one in transitions(model, tokens).items()}


def summarize(values: Sequence[Tensor], read: Tensor | None = None) -> Summary:
    """Summarize the eigenvalues of one or several layers.

    Args:
        values: eigenvalues (B, T, G, n) of each layer.
        read: which tokens count (B, T); all when absent.
    """
    layers = [x[read] if read is not None else x.flatten(0, 1) for x in values]  # (tokens, G, n)
    total = sum(x.numel() for x in layers)
    numbers = torch.stack(
        [
            torch.stack([part(x).double() for x in layers]).sum() / total
            for part in (_negative, _complex, lambda x: (x.abs() - 1).abs().sum())
        ]
        + [torch.stack([_real(x).min().double() for x in layers]).min(), _slowest(layers)]
    ).tolist()  # once, as the CPU waits for the GPU here
    negative, turning, distance, least, rate = numbers
    horizon = min(LONGEST, math.log(2) / rate) if rate > 0 else LONGEST
    return Summary(least, negative, turning, distance, horizon)


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def _is_complex(x: Tensor) -> Tensor:
    return x.imag != 0 if x.is_complex() else torch.zeros_like(x, dtype=torch.bool)


def _negative(x: Tensor) -> Tensor:
    return ((_real(x) < 0) & ~_is_complex(x)).sum()


def _complex(x: Tensor) -> Tensor:
    return _is_complex(x).sum()


def _slowest(layers: Sequence[Tensor]) -> Tensor:
    """Return the least mean of -log |eigenvalue| of a group."""
    rates = torch.cat([-x.abs().clamp_min(1e-30).log().double().mean((0, 2)) for x in layers]).clamp_min(0)
    counts: Callable[[Tensor], Tensor] = lambda x: ((_real(x) < 0) | _is_complex(x)).double().mean((0, 2))  # noqa: E731
    moves = torch.cat([counts(x) for x in layers]) >= 0.01
    return torch.where(moves | ~moves.any(), rates, torch.inf).min()
