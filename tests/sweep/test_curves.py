"""Curves of runs, from the events that TensorBoard shows."""

import csv

import pytest
from torch.utils.tensorboard import SummaryWriter

from lrnn.runtime.errors import ConfigError
from lrnn.sweep.curves import curves


def write_run(folder, scalars):
    with SummaryWriter(str(folder)) as writer:
        for tag, step, value in scalars:
            writer.add_scalar(tag, value, step)
    return str(folder)


def test_curves_of_two_runs(tmp_path):
    first = [("train/loss", 10, 9.0), ("train/loss", 20, 4.0), ("train/loss", 20, 3.5), ("val/perplexity", 20, 33.0)]
    first += [("train/gradient_norm", 10, 2.5), ("train/gradient_norm", 20, 1.0), ("val/accuracy", 20, 0.4)]
    first += [("speed/tokens_per_second", step, speed) for step, speed in ((10, 2000.0), (15, 9000.0), (20, 1000.0))]
    second = [("train/loss", 30, 2.0), ("train/gradient_norm", 30, float("nan"))]
    curves([write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)], str(tmp_path / "out"))
    with (tmp_path / "out/curves.csv").open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert ("a", "train/loss", "20", "3.5") in rows  # what a resumed run wrote last
    assert ("b", "train/loss", "30", "2") in rows
    assert not any("accuracy" in row[1] for row in rows)
    table = (tmp_path / "out/table.md").read_text()
    assert "| a | 20 | 33.0 | 3.500 | 2.50 | 2,000 |" in table
    assert "| b | 30 | - | 2.000 | not finite | - |" in table
    assert (tmp_path / "out/curves.png").stat().st_size > 10_000


def test_a_folder_without_events_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"run_dirs: .*nowhere holds no TensorBoard events"):
        curves([str(tmp_path / "nowhere")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_two_runs_whose_paths_end_alike_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / part / "run", [("train/loss", 1, 1.0)]) for part in ("x", "y")]
    curves(runs, str(tmp_path / "out"))
    table = (tmp_path / "out/table.md").read_text()
    assert "| x/run |" in table and "| y/run |" in table
