"""Draw the weights of a model once.

A linear map draws its weights where it is made. If all weights are then drawn again from another distribution, the
first draw is wasted: 3 s of one core for 340M parameters.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)


def build_with_normal_weights(build: Callable[[], Module], std: float) -> Module:
    """Return the module that `build` makes, with all linear and embedding weights drawn from N(0, std^2).

    The weights depend on `torch.manual_seed`, and not on the number of cores that draw them.
    """
    with _Postponed() as postponed:
        module = build()
    weights = {part.weight for part in module.modules() if isinstance(part, nn.Linear | nn.Embedding)}
    normal = [weight for weight in module.parameters() if weight in weights]
    seeds = torch.randint(2**63 - 1, (len(normal),), device="cpu").tolist()
    with ThreadPoolExecutor() as pool:  # a core draws 170M numbers in a second
        list(pool.map(partial(_draw, std), normal, seeds))
    others = set(module.parameters()) - weights
    for options in postponed.draws:
        if options["tensor"] in others:
            nn.init.kaiming_uniform_(**options)
    return module


def _draw(std: float, weight: Tensor, seed: int) -> None:
    if not weight.is_meta:
        nn.init.normal_(weight, std=std, generator=torch.Generator(weight.device).manual_seed(seed))


class _Postponed(TorchFunctionMode):
    """Keeps the arguments of each `kaiming_uniform_`, by which a linear map draws its weights, in place of a draw."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[dict[str, Any]] = []

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not nn.init.kaiming_uniform_:
            return function(*args, **kwargs)
        self.draws.append(kwargs)  # PyTorch passes all arguments by name
        return kwargs["tensor"]
