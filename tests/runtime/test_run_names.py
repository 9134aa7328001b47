"""Names of runs in tables and figures."""

import pytest

from lrnn.runtime.errors import ConfigError
from lrnn.runtime.run_names import name_runs


@pytest.mark.parametrize(
    ("run_dirs", "names"),
    [
        (["runs/fit/s3/"], ["s3"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/a/seed0", "./runs/b/seed0"], ["a/seed0", "b/seed0"]),
        (["runs/a", "runs/a/again"], ["a", "a/again"]),
    ],
)
def test_a_name_is_the_part_in_which_the_folders_differ(run_dirs, names):
    assert name_runs(run_dirs, "run_dirs") == dict(zip(names, run_dirs, strict=True))


@pytest.mark.parametrize("run_dirs", [[], ["runs/a", "runs/b/../a"]])
def test_no_folder_and_the_same_folder_twice_are_refused(run_dirs):
    with pytest.raises(ConfigError, match=r"^run_dirs: must name different folders, at least one, got "):
        name_runs(run_dirs, "run_dirs")
