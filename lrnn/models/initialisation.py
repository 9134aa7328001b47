"""Draw the weights of a model once.

A linear map draws its weights where it is made. If all weights are then drawn again from another distribution, the
first draw is wasted: 3 of 8 s before the first step of a model of 340M parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)


def build_with_normal_weights(build: Callable[[], Module], std: float) -> Module:
    """Return the module that `build` makes, with all linear and embedding weights drawn from N(0, std^2)."""
    with _Postponed() as postponed:
        module = build()
    others = set(module.parameters())
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
            others.discard(part.weight)
    for options in postponed.draws:
        if options["tensor"] in others:
            nn.init.kaiming_uniform_(**options)
    return module


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
