"""Turn a function into a command, such as python -m lrnn.table."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentError, auto_cli

from data import DataError
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.one_line import one_line


def command(
    function: Callable[..., Any] | dict[str, Any],
    name: str,
    check: Callable[[Sequence[str]], None] = lambda arguments: None,
) -> None:
    """Call a function with the arguments of the command line, and end with one line if the user must change something.

    Args:
        function: Function to call. Its parameters become options; its docstring becomes their help. A dictionary of
            functions becomes one subcommand each.
        name: Module that the user runs, as in `python -m name`.
        check: Function that is called with the arguments before they are parsed. It raises ConfigError to refuse them.
    """
    try:
        check(sys.argv[1:])
        auto_cli(function, as_positional=False, exit_on_error=False, prog=f"python -m {name}")
        sys.stdout.flush()
    except ArgumentError as error:
        sys.exit(f"error: {one_line(str(error))}")
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except BrokenPipeError:  # the reader has enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python still writes what it has buffered
        sys.exit(1)
