"""Tell the configuration of a run from that of a sweep, so that each command can refuse the other's files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lrnn.runtime.errors import ConfigError

OF_A_RUN = {"model", "data", "trainer"}
OF_A_SWEEP = {"cells"}


def refuse_sweep_configs(arguments: Sequence[str]) -> None:
    """Check the `--config` files among the arguments of `python -m lrnn.fit`.

    Raises:
        ConfigError: if one of them configures a sweep.
    """
    _refuse(arguments, OF_A_SWEEP, "a sweep", "lrnn.sweep")


def refuse_run_configs(arguments: Sequence[str]) -> None:
    """Check the `--config` files among the arguments of `python -m lrnn.sweep`.

    Raises:
        ConfigError: if one of them configures a run.
    """
    _refuse(arguments, OF_A_RUN, "a run", "lrnn.fit")


def _refuse(arguments: Sequence[str], keys: set[str], kind: str, module: str) -> None:
    for file in config_files(arguments):
        if keys & set(read_config(file)):
            raise ConfigError(f"config: {file} configures {kind}; use python -m {module} --config {file}")


def config_files(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the `--config` files among the arguments of a command line."""
    for i, argument in enumerate(arguments):
        if argument in ("-c", "--config"):
            yield from arguments[i + 1 : i + 2]
        elif argument.startswith("--config="):
            yield argument.removeprefix("--config=")


def read_config(file: str) -> dict[str, Any]:
    """Return the content of a file, or nothing if it can't be read: the command's parser says why."""
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
