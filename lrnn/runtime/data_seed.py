"""Refuse a seed of the data that `python -m lrnn.fit` would overwrite with `seed_everything`."""

import re
from collections.abc import Sequence

from lrnn.runtime.config_kind import config_files, read_config
from lrnn.runtime.errors import ConfigError


def refuse_data_seed(arguments: Sequence[str]) -> None:
    """Check the arguments of `python -m lrnn.fit` and their `--config` files.

    Raises:
        ConfigError: if one of them sets the seed of the data.
    """
    given = [argument for argument in arguments if re.match(r"--data\.(init_args\.)?seed\b", argument)]
    for file in config_files(arguments):
        data = read_config(file).get("data")
        options = data.get("init_args") if isinstance(data, dict) else None
        if isinstance(options, dict) and "seed" in options:
            given.append(file)
    if given:
        raise ConfigError(f"data.seed: is seed_everything; set --seed_everything instead, got {given[-1]}")
