"""Class paths: how a checkpoint names a class and the options that an object was made with."""

import sys
from functools import partial
from typing import Any


def import_path(cls: type) -> str:
    """Return the shortest import path of a class: `lrnn.models.DeltaNet`, not `lrnn.models.delta_net.DeltaNet`."""
    parts = cls.__module__.split(".")
    for length in range(1, len(parts) + 1):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), cls.__qualname__, None) is cls:
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def plain(option: Any) -> Any:
    """Return an option as a configuration file writes it.

    A class, or a functools.partial of one, becomes a mapping of `class_path` and `init_args`.

    Raises:
        TypeError: if the option is another function, which no configuration can name.
    """
    if isinstance(option, dict):
        return {name: plain(value) for name, value in option.items()}
    if isinstance(option, list):
        return [plain(value) for value in option]
    if isinstance(option, type):
        return {"class_path": import_path(option)}
    if isinstance(option, partial):
        # jsonargparse makes a partial of a function of its own, with the class as an argument
        classes = [x for x in (option.func, *option.args) if isinstance(x, type)]
        if classes:
            return {"class_path": import_path(classes[-1]), "init_args": plain(option.keywords)}
    if callable(option):
        raise TypeError(f"model: an option must be a class or a functools.partial of one, got {option}")
    return option
