"""The task that data/README.md shows how to add: one file and one YAML train, are validated and are tested."""

import re

import torch

from data.resumable import IGNORE
from lrnn.fit import fit


def test_the_example_trains(monkeypatch, tmp_path, pytestconfig):
    readme = (pytestconfig.rootpath / "data/README.md").read_text()
    (python,), (yaml,) = (re.findall(rf"```{kind}\n(.*?)```", readme, re.DOTALL) for kind in ("python", "yaml"))
    (tmp_path / "majority.py").write_text(python)
    (tmp_path / "majority.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(pytestconfig.rootpath)
    options = ["--data.batch_size=4", "--data.validation_samples=8", "--data.test_samples=8"]
    options += ["--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false"]
    options += [f"--trainer.callbacks.init_args.{key}" for key in ("samples=8", "lengths=[40]", "final_lengths=[]")]
    configs = ["--config=conf/parity.yaml", f"--config={tmp_path}/majority.yaml", f"--run_dir={tmp_path}/run"]
    task = fit([*configs, *options]).datamodule
    assert type(task).__name__ == "Majority" and (tmp_path / "run/length_generalization.json").exists()
    batch = task.training_batch(range(100), torch.device("cpu"))
    for inputs, labels in zip(batch.inputs.tolist(), batch.labels.tolist(), strict=True):
        bits = [token - 1 for token in inputs if token]
        assert [label for label in labels if label != IGNORE] == [1 + (sum(bits) > len(bits) / 2)]
        assert labels[len(bits) - 1] != IGNORE
