"""Find the tokenizer that a run was trained with."""

from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lrnn.runtime.errors import ConfigError


def tokenizer_of_run(config: Path) -> str | None:
    """Return the tokenizer that the config.yaml of a run names, or None for a run on a synthetic task.

    Raises:
        ConfigError: if there is no such file, or if it is no configuration of a run.
    """
    if not config.is_file():
        raise ConfigError(f"run_dir: there is no {config}")
    try:
        tokenizer = OmegaConf.select(OmegaConf.load(config), "data.init_args.tokenizer")
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ConfigError(f"run_dir: {config} can't be read ({reason})") from error
    if not isinstance(tokenizer, str | None):
        raise ConfigError(f"run_dir: {config} names no file as data.init_args.tokenizer, but {tokenizer}")
    return tokenizer
