"""Shapes of the models that are timed, and models of random weights in these shapes."""

from dataclasses import dataclass
from typing import Any

import torch

from lrnn.models import DeltaNet, Mamba


@dataclass(frozen=True)
class Shape:
    """Shape of a model and of its batch. Mamba has neither heads nor an MLP."""

    width: int
    layers: int
    vocab_size: int
    batch: int
    length: int
    heads: int = 0
    mlp_width: int = 0


PARITY = Shape(width=128, layers=2, heads=4, mlp_width=512, vocab_size=3, batch=1024, length=40)
DELTA_NET_340M = Shape(width=1024, layers=24, heads=8, mlp_width=2816, vocab_size=32_000, batch=16, length=2048)
DELTA_NET_1B = Shape(width=2048, layers=24, heads=16, mlp_width=5632, vocab_size=32_000, batch=6, length=2048)
MAMBA_370M = Shape(width=1024, layers=48, vocab_size=32_000, batch=16, length=2048)


def random_delta_net(shape: Shape, **options: Any) -> DeltaNet:
    """Make a DeltaNet on the GPU, or on the CPU if there is none; `options` are those that the shape leaves open."""
    with _device():
        return DeltaNet(
            width=shape.width,
            heads=shape.heads,
            layers=shape.layers,
            mlp_width=shape.mlp_width,
            vocab_size=shape.vocab_size,
            init_std=0.02,
            **options,
        )


def random_mamba(shape: Shape, **options: Any) -> Mamba:
    """Make a Mamba on the GPU, or on the CPU if there is none; `options` are those that the shape leaves open."""
    with _device():
        return Mamba(width=shape.width, layers=shape.layers, vocab_size=shape.vocab_size, init_std=0.02, **options)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
