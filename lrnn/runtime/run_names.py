"""Name several runs, for tables and figures."""

import os
from collections.abc import Sequence

from lrnn.runtime.errors import ConfigError


def name_runs(run_dirs: Sequence[str], option: str) -> dict[str, str]:
    """Return the folders by their names. A name is the part of a folder's path in which the folders differ.

    runs/groups/s3/seed0, runs/groups/a5/seed0    s3/seed0, a5/seed0
    runs/groups/s3/seed0, runs/groups/s3/seed1    seed0, seed1
    runs/groups/s3/seed0                          seed0

    Args:
        run_dirs: Folders of runs.
        option: Option that has the folders, for the error.

    Raises:
        ConfigError: if there is no folder, or the same folder twice.
    """
    paths = [os.path.abspath(folder) for folder in run_dirs]
    if not paths or len({*paths}) < len(paths):
        raise ConfigError(f"{option}: must name different folders, at least one, got {list(run_dirs)}")
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return {os.path.relpath(path, common): folder for path, folder in zip(paths, run_dirs, strict=True)}
