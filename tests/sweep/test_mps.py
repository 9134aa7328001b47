"""Runs that share a GPU, with a program in the place of NVIDIA's that only records how it is called."""

import os
from pathlib import Path

import pytest

from lrnn.sweep.device import Device
from lrnn.sweep.mps import PIPES, shared_gpus


@pytest.mark.parametrize("works", [True, False])
def test_runs_share_a_gpu_through_mps_where_it_works(works, tmp_path, monkeypatch):
    control = tmp_path / "nvidia-cuda-mps-control"
    control.write_text(f"#!/bin/sh\nif test $# = 0; then set -- $(cat); fi; echo $@ ${PIPES} >> {tmp_path}/log\n")
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv(PIPES, raising=False)
    asked = []
    with shared_gpus(lambda: asked.append(Device("3").environment) or works) as how:
        assert how == "the runs share their GPU through MPS" if works else how.startswith("the runs take turns")
        inside = os.environ.get(PIPES)
    assert PIPES not in os.environ and bool(inside) == works
    (begun, folder), (ended, same) = (line.split() for line in (tmp_path / "log").read_text().splitlines())
    assert (begun, ended, same) == ("-d", "quit", folder) and asked[0][PIPES] == folder
    assert inside in (None, folder) and not Path(folder).exists()


def test_without_mps_runs_take_turns(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(PIPES, raising=False)
    with shared_gpus(lambda: True) as how:
        assert "nvidia-cuda-mps-control, which lets them share it, is not installed" in how
        assert PIPES not in os.environ
    monkeypatch.setenv(PIPES, "elsewhere")  # one that runs already
    with shared_gpus(lambda: True) as how:
        assert how == "the runs share their GPU through the MPS of elsewhere"
