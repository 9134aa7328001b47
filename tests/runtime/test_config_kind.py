"""Each command refuses the configuration files of the other."""

from pathlib import Path

import pytest

from lrnn.runtime.config_kind import refuse_run_configs, refuse_sweep_configs
from lrnn.runtime.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
# the other files of that folder are parts of runs
SWEEPS = [path for path in sorted(CONF.glob("sweeps/*.yaml")) if "\ncells:" in path.read_text()]
RUNS = [path for path in sorted(CONF.glob("**/*.yaml")) if path not in SWEEPS]


@pytest.mark.parametrize("path", SWEEPS + RUNS, ids=lambda path: str(path.relative_to(CONF)))
def test_the_other_commands_files_are_refused_in_one_line(path):
    ours, other, kind, module = (
        (refuse_run_configs, refuse_sweep_configs, "a sweep", "lrnn.sweep")
        if path in SWEEPS
        else (refuse_sweep_configs, refuse_run_configs, "a run", "lrnn.fit")
    )
    for arguments in ([f"--config={path}"], ["--seed=1", "--config", str(path)], ["-c", str(path), "--x=2"]):
        ours(arguments)
        with pytest.raises(ConfigError) as error:
            other(arguments)
        assert str(error.value) == f"config: {path} configures {kind}; use python -m {module} --config {path}"


def test_files_that_cannot_be_read_are_left_to_the_parser(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("cells: [")
    text = tmp_path / "text.yaml"
    text.write_text("cells")
    for check in (refuse_run_configs, refuse_sweep_configs):
        check([])
        check([f"--config={broken}", f"--config={text}", f"--config={tmp_path}/none.yaml", "--config"])
