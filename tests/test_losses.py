"""The first losses of every run configuration stay what they are.

They change only with what training computes, and with how weights are drawn. The losses in tests/losses.json are older
than the present layout of the code. Those of runs with `init_std` are newer, since their weights come from another
generator now.
"""

import json
from pathlib import Path

import lightning as L
import pytest

from lrnn.fit import fit

ROOT = Path(__file__).parents[1]
EXPECTED = json.loads((ROOT / "tests/losses.json").read_text())
PROTOCOL = "conf/paper/protocol.yaml"
SMALL = ("--model.width=64", "--model.layers=3", "--data.context=64", "--data.batch_size=2", "--data.num_workers=0")
SMALL += ("--trainer.num_nodes=1", "--trainer.accumulate_grad_batches=2")
HEADS = ("--model.heads=4", "--model.mlp_width=128")
RUNS = {
    "parity": ("--config=conf/parity.yaml",),
    "parity_mamba": ("--config=conf/parity_mamba.yaml",),
    "pretrain_smoke": ("--config=conf/pretrain_smoke.yaml",),
    "pretrain_340m": ("--config=conf/pretrain_340m.yaml", *SMALL, *HEADS),
    "pretrain_1b": ("--config=conf/pretrain_1b.yaml", *SMALL, *HEADS),
    "pretrain_mamba_370m": ("--config=conf/pretrain_mamba_370m.yaml", *SMALL),
}
for model in ("delta_net", "mamba", "mlstm", "slstm", "transformer", "diagonal", "full_matrix"):
    paper = (f"--config={PROTOCOL}", f"--config=conf/paper/models/{model}.yaml", "--data.batch_size=8")
    RUNS[f"paper_{model}"] = paper
    if model in ("delta_net", "mamba"):
        for task in ("modular_arithmetic", "modular_arithmetic_brackets"):
            RUNS[f"{task}_{model}"] = (*paper, f"--config=conf/paper/tasks/{task}.yaml")


class Losses(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))


def first_losses(options, shards, folder):
    """Losses of 5 optimizer steps in float32 on a CPU."""
    callback = Losses()
    if any("pretrain" in option for option in options):
        options = (*options, f"--data.shards={shards}")
    fit(
        [
            *options,
            f"--run_dir={folder}",
            "--trainer.accelerator=cpu",
            "--trainer.devices=1",
            "--trainer.precision=32-true",
            "--trainer.max_steps=5",
            "--trainer.callbacks=[]",
            "--trainer.limit_val_batches=0",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--compile.cuda_graphs=false",
        ],
        [callback],
    )
    return callback.values


@pytest.mark.parametrize("run", RUNS)
def test_the_first_losses_are_those_of_before(run, random_shards, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert first_losses(RUNS[run], random_shards, tmp_path / "run") == pytest.approx(EXPECTED[run], rel=1e-5)
