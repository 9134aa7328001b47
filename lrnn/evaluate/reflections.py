"""Which gates, keys and directions of DeltaNet and DeltaProduct are exact.

A token multiplies the state S (K, V) of a head from the left by its transition

    A = g (I - beta_n k_n k_n^T) ... (I - beta_1 k_1 k_1^T)        |k_j| = 1

A factor keeps all distances exactly if beta is 0 (nothing happens) or 2 (a reflection), and a product of reflections is
a rotation by twice the angle of its keys: orthogonal keys turn by 180 degrees, keys at 60 degrees by 120. Where beta is
in between, the state is forgotten along k.

The labels need not use all directions of the state. Let D_y be the distance of the mean state of label y from their
mean, (K, V). The directions u that hold the label are the leading eigenvectors of sum_y D_y D_y^T. States keep apart at
any length only if every A keeps the lengths of these: the singular values of A U are 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from lrnn.models import LanguageModel
from lrnn.models import delta_net as delta_net_file
from lrnn.models import delta_product as delta_product_file
from lrnn.models.delta_net import DeltaNetMixer
from lrnn.models.delta_product import DeltaProductMixer

NEAR = 0.02  # share of beta's range within which beta counts as being at an end
HELD = 0.999  # share of the separation of the labels that the directions which hold it have
TRANSITIONS = 2048  # number of transitions whose singular values are computed


@dataclass(frozen=True)
class Reflections:
    """What one layer applies to its state at N tokens, each with n reflections."""

    block: int
    tokens: Tensor
    """Token ids (N,)."""

    beta: Tensor
    """(N, n, heads), float64."""

    k: Tensor
    """Keys of length 1, (N, n, heads, K), float64."""

    gate: Tensor
    """Forget gates (N, heads), float64; 1 without one."""

    largest: float
    """Largest beta that there can be: 2 with range [-1, 1], else 1."""

    def transitions(self) -> Tensor:
        """Return A, (N, heads, K, K)."""
        k = self.k
        A = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device) * self.gate[..., None, None]
        for beta_j, k_j in zip(self.beta.unbind(1), k.unbind(1), strict=True):
            A = A - beta_j[..., None, None] * k_j[..., None] * (k_j[..., None, :] @ A)
        return A

    def cosines(self) -> Tensor:
        """Return |k_i . k_j| of the pairs of keys of one token, (N, pairs, heads), NaN unless both reflect."""
        i, j = torch.triu_indices(self.beta.shape[1], self.beta.shape[1], 1)
        both = (self.beta[:, i] > self.largest / 2) & (self.beta[:, j] > self.largest / 2)
        return torch.where(both, (self.k[:, i] * self.k[:, j]).sum(-1).abs(), torch.nan)


@dataclass(frozen=True)
class Head:
    """Summary of one head. Distances from an end of beta's range are medians, None if no beta is near that end."""

    block: int
    head: int
    share: float
    """Share of the squared separation of the labels that lies in this head."""

    directions: int
    """Number of directions, of K, that hold HELD of the head's separation."""

    contraction: float
    """Root mean square of (singular value - 1) in these directions, over all tokens."""

    worst: float
    """Largest |singular value - 1| in these directions."""

    near_0: float
    """Share of the betas that are near 0."""

    from_0: float | None
    largest: float
    """Largest beta that there can be: 2 with range [-1, 1], else 1."""

    near_largest: float
    """Share of the betas that are near it."""

    from_largest: float | None
    orthogonal: float | None
    """Share of the pairs of reflections of a token whose keys have |cos| < 0.01; None if no token has two."""

    cosine: float | None
    """Median |cos| of those pairs."""


def has_reflections(model: LanguageModel) -> bool:
    """Return whether any layer is one of DeltaNet or DeltaProduct."""
    return any(_reflects(block.mixer) for block in model.backbone.blocks)


def _reflects(mixer: object) -> bool:
    return isinstance(mixer, DeltaNetMixer | DeltaProductMixer)


def reflections_of(model: LanguageModel, tokens: Tensor) -> list[Reflections]:
    """Return the reflections of each layer as it reads tokens (B, T); those of the first token of a row are left out.

    The first token, BOS, may write the first state instead of keeping one.
    """
    blocks = [i for i, block in enumerate(model.backbone.blocks) if _reflects(block.mixer)]
    with torch.no_grad(), _recorded() as calls:
        model(tokens)
    found = []
    for i, (k, beta, log_gate) in zip(blocks, calls, strict=True):
        mixer = model.backbone.blocks[i].mixer
        k, beta = k.double()[:, 1:].flatten(0, 1), beta.double()[:, 1:].flatten(0, 1)
        gate = torch.ones_like(beta[:, 0]) if log_gate is None else log_gate.double().exp()[:, 1:].flatten(0, 1)
        largest = float(getattr(mixer, "beta_scale"))  # noqa: B009  # which Mixer does not declare
        found.append(Reflections(i, tokens[:, 1:].flatten(), beta, k, gate, largest))
    return found


@contextmanager
def _recorded() -> Iterator[list[tuple[Tensor, Tensor, Tensor | None]]]:
    """Record keys (B, T, n, H, K), betas (B, T, n, H) and log gates of the calls of both ops while models run."""
    calls: list[tuple[Tensor, Tensor, Tensor | None]] = []
    rule, product = delta_net_file.delta_rule, delta_product_file.delta_product

    def delta_rule(q, k, v, beta, *rest, **options):  # type: ignore[no-untyped-def]
        calls.append((k[:, :, None], beta[:, :, None], None))
        return rule(q, k, v, beta, *rest, **options)

    def delta_product(q, k, v, beta, log_gate=None, *rest, **options):  # type: ignore[no-untyped-def]
        calls.append((k, beta, log_gate))
        return product(q, k, v, beta, log_gate, *rest, **options)

    with (
        patch.object(delta_net_file, "delta_rule", delta_rule),
        patch.object(delta_product_file, "delta_product", delta_product),
    ):
        yield calls


def summarize(reflections: Reflections, means: Tensor) -> list[Head]:
    """Summarize each head of a layer.

    Args:
        reflections: what the layer applies.
        means: mean states of the labels, (labels, heads, K, V), float64.
    """
    distance = means - means.mean(0)
    held = torch.einsum("yhkv,yhlv->hkl", distance, distance)
    traces = held.diagonal(dim1=1, dim2=2).sum(1)
    chosen = torch.linspace(0, len(reflections.tokens) - 1, min(TRANSITIONS, len(reflections.tokens))).long()
    chosen = chosen.to(reflections.tokens.device)
    few = replace(
        reflections,
        tokens=reflections.tokens[chosen],
        beta=reflections.beta[chosen],
        k=reflections.k[chosen],
        gate=reflections.gate[chosen],
    )
    A, cosines = few.transitions(), reflections.cosines()
    return [
        _head(reflections, h, float(traces[h] / traces.sum()), held[h], A[:, h], cosines[..., h])
        for h in range(len(held))
    ]


def _head(layer: Reflections, h: int, share: float, held: Tensor, A: Tensor, cosines: Tensor) -> Head:
    values, vectors = torch.linalg.eigh(held)
    values, vectors = values.flip(0), vectors.flip(1)
    directions = int((values.cumsum(0) < HELD * values.sum()).sum()) + 1
    error = torch.linalg.svdvals(A @ vectors[:, :directions]) - 1
    beta, largest = layer.beta[..., h].flatten(), layer.largest
    low, high = beta < NEAR * largest, beta > (1 - NEAR) * largest
    pairs = cosines[~cosines.isnan()]
    return Head(
        block=layer.block,
        head=h,
        share=share,
        directions=directions,
        contraction=float(error.square().mean().sqrt()),
        worst=float(error.abs().max()),
        near_0=float(low.double().mean()),
        from_0=_median(beta[low]),
        largest=largest,
        near_largest=float(high.double().mean()),
        from_largest=_median(largest - beta[high]),
        orthogonal=float((pairs < 0.01).double().mean()) if len(pairs) else None,
        cosine=_median(pairs),
    )


def _median(values: Tensor) -> float | None:
    return float(values.median()) if len(values) else None


def by_token(layer: Reflections) -> dict[int, dict[str, Any]]:
    """Return the mean betas (n, heads), and the mean |cos| of the pairs of keys (pairs, heads), of each token.

    The mean |cos| is over the places where both keys of a pair reflect; 0 if there is none.
    `deviation` is the largest standard deviation of a beta among the places where the token occurs. It is 0 in a first
    layer without a convolution, whose gates and keys depend on the token alone.
    """
    cosines = layer.cosines()
    found: dict[int, dict[str, Any]] = {}
    for token in layer.tokens.unique().tolist():
        here = layer.tokens == token
        beta = layer.beta[here]
        found[token] = {
            "beta": beta.mean(0).tolist(),
            "cosine": cosines[here].nanmean(0).nan_to_num().tolist(),
            "deviation": float(beta.std(0, correction=0).max()),
        }
    return found
