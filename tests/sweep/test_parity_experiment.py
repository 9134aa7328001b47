"""`make parity` at a tiny size: records, table, picture, and what is kept from a first run."""

import json

import pytest
from rich.console import Console

from lrnn import parity as experiment
from lrnn.parity_report import write_report
from lrnn.runtime.errors import ConfigError

TINY = (
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--data.batch_size=2",
    "--data.validation_samples=4",
    "--data.test_samples=16",
    "--trainer.callbacks.init_args.lengths=[40,64]",
    "--trainer.callbacks.init_args.final_lengths=[1024]",
    "--trainer.callbacks.init_args.samples=8",
)


def test_parity_trains_every_cell_and_keeps_what_is_done(tmp_path, capsys):
    run_dir = tmp_path / "parity"
    experiment.parity(str(run_dir), workers=2, seeds=(0,), options=TINY)
    records = json.loads((run_dir / "results.json").read_text())
    cells = [(record["architecture"], record["eigenvalue_range"], record["seed"]) for record in records]
    assert cells == [(a, r, 0) for a in ("DeltaNet", "Mamba") for r in ([0, 1], [-1, 1])]
    for record in records:
        assert set(record) == {
            "architecture", "eigenvalue_range", "seed", "seconds", "scaled_accuracy", "scaled_accuracy_at",
        }  # fmt: skip
        assert set(record["scaled_accuracy_at"]) == {"40", "64", "1024"}
    table = (run_dir / "table.md").read_text()
    assert table.count("| DeltaNet [") == table.count("| Mamba [") == 2
    assert (run_dir / "length_generalization.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    before = (run_dir / "results.json").read_text()
    experiment.parity(str(run_dir), workers=1, seeds=(0,), options=TINY)
    assert "4 of 4 runs are kept" in capsys.readouterr().out
    assert (run_dir / "results.json").read_text() == before
    with pytest.raises(ConfigError, match="another recipe"):
        experiment.parity(str(run_dir), workers=1, seeds=(0,), options=(*TINY, "--model.learning_rate=1e-3"))


def test_report_takes_best_and_median_of_seeds(tmp_path):
    records = [
        {
            "architecture": "Mamba",
            "eigenvalue_range": [-1, 1],
            "seed": seed,
            "seconds": 2.0 + seed,
            "scaled_accuracy": score,
            "scaled_accuracy_at": {"40": 1.0, "1024": score / 2},
        }
        for seed, score in enumerate((0.25, 1.0, 0.5))
    ]
    write_report(records, 40, tmp_path, Console(quiet=True))
    assert (
        "| Mamba [-1, 1] | 1.000/1.000 | 1.000/0.500 | 0.250 1.000 0.500 | 0.250 | - | 3 |"
        in (tmp_path / "table.md").read_text()
    )
