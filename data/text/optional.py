"""Libraries that only some sources and tokenizers need."""

from importlib import import_module
from typing import Any

from data.errors import DataError


def require(module: str) -> Any:
    """Import a module now. Raises DataError, with the command that installs it, if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(f"{module} is not installed: .venv/bin/pip install -e '.[fineweb]'") from error
