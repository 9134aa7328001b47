"""Build an object from its class path and arguments, as a configuration file names them."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser

from lrnn.runtime.errors import ConfigError

T = TypeVar("T")


def instantiate(key: str, kind: type[T], class_path: str, init_args: Mapping[str, Any]) -> T:
    """Build a `kind` from what a configuration or a checkpoint says of it.

    Args:
        key: name of the setting, for the error message.
        kind: the class, or a base class of it.
        class_path: import path of the class, such as `lrnn.models.DeltaNet`.
        init_args: its arguments. Classes among them are named by mappings of `class_path` and `init_args`.

    Raises:
        ConfigError: if there is no such class, if it is not a `kind`, or if it does not take the arguments.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, key)
    try:
        config = parser.parse_object({key: {"class_path": class_path, "init_args": dict(init_args)}})
        built: T = parser.instantiate_classes(config)[key]
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"{key}: {class_path} can't be built as a {kind.__name__} ({_reason(error)})") from error
    return built


def _reason(error: Exception) -> str:
    """Return the part of the parser's message that says what to change."""
    message = " ".join(str(error).split())
    reason = re.search(r"Errors: - (?:Problem with given class_path '[^']*': )?(.*?) - Expected a", message)
    return (reason[1] if reason else message)[:200]
