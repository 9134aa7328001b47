"""Functions as commands: python -m lrnn.table and others."""

import sys
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentError, auto_cli

from data import DataError
from lrnn.runtime.errors import ConfigError


def command(function: Callable[..., Any] | dict[str, Any], name: str) -> None:
    """Call it as the command line of `python -m name` says; what the user must change is said in one line.

    A dictionary of functions becomes one subcommand each.
    """
    try:
        auto_cli(function, as_positional=False, exit_on_error=False, prog=f"python -m {name}")
    except (ArgumentError, ConfigError, DataError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
