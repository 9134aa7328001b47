"""What a GPU offers to kernels. Each device is asked once.

An op whose kernels need another configuration on another card chooses it in its `configurations.py`. On a CPU, where
Triton's interpreter runs kernels, the card is an H100.
"""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import NamedTuple

import torch


class Card(NamedTuple):
    """What decides how a kernel is compiled."""

    capability: tuple[int, int]  # compute capability, (9, 0) for an H100
    shared: int  # bytes of shared memory that a program can have

    @property
    def hopper(self) -> bool:
        return self.capability[0] == 9

    @property
    def races(self) -> bool:
        """Whether chunked products of several warps race: on Blackwell before Triton 3.8 (triton-lang/triton#10590)."""
        return self.capability[0] >= 10 and triton_version() < (3, 8)

    @property
    def miscompiles_gates(self) -> bool:
        """Whether flash-linear-attention refuses its kernels with a gate: on Hopper before Triton 3.7.1 (its #640)."""
        return self.hopper and triton_version() < (3, 7, 1)


# NVIDIA, CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": shared memory of a thread block
CARDS = {
    "T4": Card((7, 5), 64 * 1024),
    "A100": Card((8, 0), 163 * 1024),
    "A6000": Card((8, 6), 99 * 1024),
    "L40S": Card((8, 9), 99 * 1024),
    "H100": Card((9, 0), 227 * 1024),
    "B200": Card((10, 0), 227 * 1024),
    "RTX5090": Card((12, 0), 99 * 1024),
}

_pretended: list[Card] = []


@torch.compiler.assume_constant_result
def card_of(device: torch.device) -> Card:
    """Return the card of a device."""
    if _pretended:
        return _pretended[-1]
    return _ask(device.index) if device.type == "cuda" else CARDS["H100"]


@functools.cache
def triton_version() -> tuple[int, ...]:
    """Return the version of Triton as numbers, (3, 7, 1); empty without Triton."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", metadata.version("triton"))[:3])
    except metadata.PackageNotFoundError:
        return ()


@contextmanager
def pretend(card: Card) -> Iterator[None]:
    """Let kernels run in the configurations of `card`, on a GPU that has at least its shared memory."""
    _pretended.append(card)
    try:
        yield
    finally:
        _pretended.pop()


@functools.cache
def _ask(index: int | None) -> Card:
    properties = torch.cuda.get_device_properties(index)
    # PyTorch's type stubs lack the name
    return Card((properties.major, properties.minor), getattr(properties, "shared_memory_per_block_optin"))  # noqa: B009
