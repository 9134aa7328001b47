"""How a command ends."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_reader_that_closes_the_pipe_sees_no_traceback(tmp_path):
    """As in `python -m lrnn.sweep ... --dry_run=true | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = sys.executable, "-m", "lrnn.sweep", "--config=conf/sweeps/figure1.yaml", "--dry_run=true"
    command += (f"--run_dir={tmp_path}",)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2], check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
