"""Accuracies among choices of a sweep's runs."""

import csv
import json

import pytest

from lrnn.runtime.errors import ConfigError
from lrnn.sweep.choices import choices
from lrnn.sweep.grid import Block, claim_folder, make_cells


def write(run, at):
    """Write the scores of a run: `at` for boards, and others for repl, at the same lengths."""
    others = {length: float(i == 0) for i, length in enumerate(at)}
    families = {
        "boards": {"chance": 0.2, "accuracy_at": at},
        "repl": {"chance": 0.4, "accuracy_at": others},
    }
    run.folder.mkdir(parents=True)
    (run.folder / "choice_accuracy.json").write_text(json.dumps({"chance": 0.3, "families": families}))


def test_medians_by_family_and_length(tmp_path, capsys):
    cells = make_cells([Block({"A": "", "B": ""}, {"text": ""})], [1e-3], [0, 1, 2], "")
    claim_folder(tmp_path, cells)
    with pytest.raises(ConfigError, match=r"run_dir: no run of .* has a choice_accuracy\.json"):
        choices(str(tmp_path))
    for run in cells[0].runs(tmp_path):
        write(run, {"4": (0.5, 0.9, 0.7)[run.seed], "16": 0.25})
    choices(str(tmp_path), str(tmp_path / "out"))
    table = (tmp_path / "out/choices.md").read_text()
    assert "| model | family | chance | seeds | 4 | 16 |" in table
    assert "| A | boards | 0.200 | 3 | 0.700 | 0.250 |" in table
    assert "| A | mean | 0.300 | 3 | 0.850 | 0.125 |" in table and "| B |" not in table
    with (tmp_path / "out/choices.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 9 and {row["seed"] for row in rows} == {"0", "1", "2"}
    assert "choices.csv" in capsys.readouterr().out


def test_tasks_have_rows_and_may_have_lengths_of_their_own(tmp_path):
    cells = make_cells([Block({"A": ""}, {"short": "", "long": ""})], [1e-3], [0, 1], "")
    claim_folder(tmp_path, cells)
    for cell, accuracies in zip(cells, ({"4": 0.5}, {"4": 0.9, "16": 0.7}), strict=True):
        for run in cell.runs(tmp_path):
            write(run, accuracies)
    choices(str(tmp_path))
    table = (tmp_path / "choices.md").read_text()
    assert "| A on short | boards | 0.200 | 2 | 0.500 | - |" in table
    assert "| A on long | boards | 0.200 | 2 | 0.900 | 0.700 |" in table
