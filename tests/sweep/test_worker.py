"""The real worker: the same weights as from fresh processes, and a sweep and its table at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lrnn.runtime.errors import ConfigError
from lrnn.sweep.__main__ import sweep
from lrnn.sweep.grid import Block, read_folder
from lrnn.sweep.table import table

ROOT = Path(__file__).parents[2]
TINY = (
    "--trainer.max_steps=20",
    "--trainer.val_check_interval=10",
    "--data.batch_size=4",
    "--data.validation_samples=4",
    "--data.test_samples=16",
    "--trainer.callbacks.lengths=[40,64]",
    "--trainer.callbacks.final_lengths=[512,1024]",
    "--trainer.callbacks.samples=8",
)


@pytest.mark.slow
def test_the_sweep_of_make_parity_in_small(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("conf/sweeps/parity.yaml").read_text())
    config |= {"cells": [Block(**block) for block in config["cells"]], "seeds": [0], "run_dir": str(tmp_path / "sweep")}
    sweep(**config, devices=1, arguments=" ".join(TINY))
    runs = [run for cell in read_folder(tmp_path / "sweep") for run in cell.runs(tmp_path / "sweep")]
    assert [run.cell.model for run in runs] == ["DeltaNet [0, 1]", "DeltaNet [-1, 1]", "Mamba [0, 1]", "Mamba [-1, 1]"]

    # Mamba after DeltaNet in one process, and Mamba in a process of its own
    again = [*runs[-1].arguments(), f"--run_dir={tmp_path}/again"]
    subprocess.run([sys.executable, "-m", "lrnn.fit", *again], check=True, env={"OMP_NUM_THREADS": "1"}, timeout=200)
    assert json.loads((tmp_path / "again/length_generalization.json").read_text()) == runs[-1].result()
    shared, fresh = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (runs[-1].folder, tmp_path / "again")
    )
    assert shared.keys() == fresh.keys() and all(torch.equal(shared[name], fresh[name]) for name in fresh)

    table(str(tmp_path / "sweep"))
    text = (tmp_path / "sweep/table.md").read_text()
    assert "| model | paper | ours | difference | seeds | at 512 | at 1,024 | s | rate | steps |" in text
    for run in runs:
        score = run.result()["scaled_accuracy"]
        assert run.seconds() > 0 and f"| {run.cell.model} |" in text and f"| {score:.3f} |" in text
    assert (tmp_path / "sweep/parity.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    sweep(**config, devices=1, arguments=" ".join(TINY))
    assert "4 of 4 runs are finished already" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="was written by another grid"):
        sweep(**config, devices=1, arguments=" ".join((*TINY, "--model.weight_decay=0.5")))


@pytest.mark.slow
def test_bad_input_is_the_last_line_of_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    blocks = [Block({"A": "--config=conf/parity.yaml --model.colour=red"}, {"parity": ""})]
    with pytest.raises(ConfigError, match="1 of 1 runs are missing"):
        sweep(str(tmp_path / "sweep"), blocks, [0.01], seeds=[0], accelerator="cpu")
    said = " ".join(capsys.readouterr().out.split())
    assert "failed, error: model.colour: lrnn.models.DeltaNet has no such option" in said
