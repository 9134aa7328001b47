"""Libraries that only some ways into the data need."""

from importlib import import_module
from typing import Any

from data.errors import DataError


def require(module: str) -> Any:
    """The module, imported now."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(f"{module} is not installed: .venv/bin/pip install -e '.[fineweb]'") from error
