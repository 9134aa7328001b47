"""The table of Figure 4, from curves that were written by hand."""

import pytest

from lrnn.sweep.grid import Cell
from lrnn.sweep.prefix_report import prefix_lines
from lrnn.sweep.select import Finished, Row


def row(model, *curves, positions=range(129)):
    cell = Cell(model, "s5", (), (1e-4,), (0, 1, 2))
    runs = []
    for run, curve in zip(cell.runs("nowhere"), curves, strict=False):
        result = {"scaled_accuracy": 0.0}
        if curve:
            shares = [curve(t) for t in positions]
            prefixes = {"length": 64, "positions": list(positions), "sequence_accuracy": shares}
            result["prefixes"] = prefixes
        one = Finished(run, result)
        one.__dict__["configuration"] = {"trainer": {"max_steps": 20_000}}
        runs.append(one)
    return Row(cell, runs, runs)


def test_best_median_and_horizon_of_every_seed(tmp_path):
    fades = row("fades", lambda t: 1 - t / 200, lambda t: 1.0, lambda t: float(t < 40))
    lines = prefix_lines("s5", [fades, row("old", None), row("none")], 16, tmp_path)
    assert "| model | t = 4 | t = 8 | t = 16 | t = 32 | t = 64 | t = 128 | right up to | seeds | steps |" in lines
    cells = "1.000/1.000 | 1.000/1.000 | 1.000/1.000 | 1.000/1.000 | 1.000/0.680 | 1.000/0.360"
    assert f"| fades | {cells} | 128 39 20 | 3 | 20,000 |" in lines
    assert not any("old" in line or "none" in line for line in lines)
    assert (tmp_path / "s5_prefixes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("positions", "columns"), [(range(0, 40, 4), "| t = 4 | t = 8 | t = 16 | t = 32 | t = 36 "), (range(200, 210), "")]
)
def test_the_columns_are_positions_that_all_runs_have(positions, columns, tmp_path):
    rows = [row("long", lambda t: 1.0), row("other", lambda t: 1.0, positions=positions)]
    assert f"| model {columns}| right up to | seeds | steps |" in prefix_lines("s5", rows, 16, tmp_path)


def test_sweeps_without_such_curves_have_no_such_table(tmp_path):
    assert prefix_lines("s5", [row("old", None), row("none")], 16, tmp_path) == []
    assert not list(tmp_path.iterdir())
