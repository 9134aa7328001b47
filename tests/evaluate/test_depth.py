"""The depth of brackets, and accuracies by depth and length."""

import json

import pytest
import torch

from data import ModularArithmeticBrackets
from lrnn.evaluate.depth import evaluate_depth
from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError

QUICK = (
    "--config=conf/paper/protocol.yaml",
    "--config=conf/paper/models/delta_net.yaml",
    "--config=conf/sweeps/quick.yaml",
    "--data.validation_samples=8",
    "--trainer.callbacks=[]",
    "--trainer.max_steps=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)


def test_depth_is_the_largest_number_of_open_brackets():
    task = ModularArithmeticBrackets()
    for batch in task.evaluation_batches(8, 60, 50):
        for row, depth in zip(batch.inputs.tolist(), task.depth(batch.inputs).tolist(), strict=True):
            text = "".join("(" if token == 8 else ")" if token == 9 else "." for token in row)
            while (shorter := text.replace(".", "").replace("()", ".")) != text:
                text, depth = shorter, depth - 1
            assert text in (".", "") and depth in (0, -1)


def test_accuracies_by_depth(tmp_path):
    folder = tmp_path / "run"
    task = "--config=conf/paper/tasks/modular_arithmetic_brackets.yaml"
    fit([*QUICK, task, f"--run_dir={folder}"])
    record = evaluate_depth(str(folder), lengths=(20, 50), samples=300, bin_size=3)
    written = json.loads((folder / "depth/depth.json").read_text())
    assert sum(written["sequences"]["50"].values()) == 300 and set(written["scaled_accuracy"]) == {"20", "50"}
    assert all(-0.3 < score < 0.6 for score in record["scaled_accuracy"][50].values())
    assert "| 50 |" in (folder / "depth/depth.md").read_text()
    assert (folder / "depth/depth.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="samples: must be at least 1, got 0"):
        evaluate_depth(str(folder), samples=0)


def test_a_task_without_brackets_is_refused(tmp_path):
    fit([*QUICK, f"--run_dir={tmp_path}/run"])
    with pytest.raises(ConfigError, match=r"run_dir: the run's task, data\.Parity, has no depth of brackets"):
        evaluate_depth(f"{tmp_path}/run")
    assert torch.is_grad_enabled()
