"""Refuse options that `python -m lrnn.fit` sets from others, and would overwrite."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from lrnn.runtime.config_kind import config_files, read_config
from lrnn.runtime.errors import ConfigError

LINKED = {  # group, option: what to do instead
    ("data", "seed"): "is seed_everything; set --seed_everything instead",
    ("model", "vocab_size"): "is that of the data; leave it out",
}


def refuse_linked_options(arguments: Sequence[str]) -> None:
    """Check the arguments of `python -m lrnn.fit` and the files that they name.

    Raises:
        ConfigError: if one of them sets an option of LINKED.
    """
    for (group, option), instead in LINKED.items():
        for given in _settings(arguments, group, option):
            raise ConfigError(f"{group}.{option}: {instead}, got {given}")


def _settings(arguments: Sequence[str], group: str, option: str) -> Iterator[str]:
    """Yield the arguments and files that set an option."""
    for file in config_files(arguments):
        if _holds(read_config(file).get(group), option):
            yield file
    for argument in arguments:
        if re.match(rf"--{group}\.(init_args\.)?{option}\b", argument):
            yield argument
        elif argument.startswith(f"--{group}="):  # the name of a class, a file, or the options themselves
            value = argument.partition("=")[2]
            if _holds(read_config(value) or _parse(value), option):
                yield argument


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # the command's parser says what is wrong
        return None


def _holds(options: Any, option: str) -> bool:
    return isinstance(options, dict) and option in (options.get("init_args") or {})
