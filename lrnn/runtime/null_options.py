"""Refuse null for options that need a value, which the command line's parser lets through."""

import inspect
from importlib import import_module
from typing import Any

from jsonargparse import Namespace

from lrnn.runtime.errors import ConfigError


def refuse_null(value: Any, key: str) -> None:
    """Check the options of all classes in a value of the configuration.

    Args:
        value: A class with its options, a list of them, or a value without a class.
        key: Name of the value on the command line.

    Raises:
        ConfigError: with the first option that is null, and that its class does not declare as one that may be.
    """
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, Namespace) and "class_path" in one:
            module, _, name = one.class_path.rpartition(".")
            refuse_null_of(getattr(import_module(module), name), one.get("init_args") or Namespace(), key)


def refuse_null_of(of: Any, options: Namespace, key: str) -> None:
    """Check the options of one class, and those of the classes among them. The rest is as for `refuse_null`."""
    for name, value in vars(options).items():
        if value is None and not _may_be_null(of, name):
            raise ConfigError(f"{key}.{name}: must not be null")
        refuse_null(value, f"{key}.{name}")


def _may_be_null(of: Any, name: str) -> bool:
    """Return whether the class, or the base class that takes the option, has None as its default or among its types."""
    for made_by in (vars(base).get("__init__") for base in of.__mro__) if inspect.isclass(of) else [of]:
        found = inspect.signature(made_by).parameters.get(name) if inspect.isfunction(made_by) else None
        if found is not None:
            types = str(found.annotation)
            return found.default is None or any(word in types for word in ("None", "Optional", "Any", "_empty"))
    return True
