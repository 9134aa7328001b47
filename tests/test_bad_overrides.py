"""Random bad overrides of the shipped configurations train, or end in one line that names the option."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_bad_overrides_are_answered_in_one_line(random_shards):
    """In a process of its own, which forks: this one has threads. For more, see tests/bad_overrides.py."""
    command = [sys.executable, "-m", "tests.bad_overrides", f"--shards={random_shards}", "--cases=40", "--seed=7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
