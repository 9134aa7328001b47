"""A run that is cut off in an evaluation, or resumed after its end, has the scores of an uninterrupted run."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "--config=conf/parity.yaml",
    "--model.width=8",
    "--data.batch_size=4",
    "--data.validation_samples=8",
    "--data.test_samples=8",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_steps=12",
    "--trainer.val_check_interval=4",
    "--trainer.callbacks=callbacks.LengthGeneralization",
    "--trainer.callbacks.lengths=[16]",
    "--trainer.callbacks.final_lengths=[32]",
    "--trainer.callbacks.samples=8",
    "--trainer.callbacks+=callbacks.BestWeights",
    "--trainer.callbacks.samples=64",
    "--seed_everything=7",
)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


class Killed(BaseException):
    pass


class CutOff(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_validation_epoch_start(self, trainer, module):
        if trainer.global_step == self.step < trainer.max_steps:
            raise Killed

    def on_train_end(self, trainer, module):
        if trainer.global_step == self.step:
            raise Killed


def scalars(run):
    """Return the last value of each tag at each step, without times."""
    values = {}
    for file in sorted(run.glob("events*"), key=lambda file: file.stat().st_mtime_ns):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith("speed"):
                values |= {(tag, event.step): event.value for event in events.Scalars(tag)}
    return values


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def record(run):
    return json.loads((run / "length_generalization.json").read_text())


@pytest.mark.parametrize("every", [4, 5])
@pytest.mark.parametrize("step", [8, 12])
def test_a_run_cut_off_in_an_evaluation(step, every, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*OPTIONS, f"--checkpoint_every={every}"]
    fit([*options, f"--run_dir={whole}"])
    with pytest.raises(Killed):
        fit([*options, f"--run_dir={cut}"], [CutOff(step)])
    kept = torch.load(cut / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert kept == (step if every == 4 or step == 12 else 5)
    fit([*options, f"--run_dir={cut}", "--resume=true"])
    assert scalars(cut) == scalars(whole)
    assert record(cut) == record(whole)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=0, atol=0)


def test_a_finished_run_is_scored_again_and_trained_for_longer(tmp_path):
    run = tmp_path / "run"
    options = [*OPTIONS, f"--run_dir={run}"]
    fit([*options, "--trainer.max_steps=6"])
    first = record(run)
    fit([*options, "--trainer.max_steps=6", "--resume=true", "--data.test_lengths=[60,70]"])
    again = record(run)
    assert (again["step"], again["test_lengths"]) == (6, [60, 70])
    assert again["scaled_accuracy_at"] == first["scaled_accuracy_at"]
    refused = r"trainer.max_steps: must be at least 6, the step of .*last.ckpt, got 5; --config .*/run/config.yaml has"
    with pytest.raises(ConfigError, match=refused):
        fit([*options, "--trainer.max_steps=5", "--resume=true"])
    with pytest.raises(Killed):
        fit([*options, "--resume=true"], [CutOff(8)])
    assert not (run / "length_generalization.json").exists()
    assert json.loads((run / "length_generalization_6.json").read_text()) == again
    fit([f"--config={run}/config.yaml", "--resume=true"])  # it has the larger number of steps
    assert record(run)["step"] == 12


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    options = [*OPTIONS, f"--run_dir={tmp_path}/run", "--trainer.max_steps=6"]
    fit([*options, "--trainer.fast_dev_run=true"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(Killed):
        fit(options, [CutOff(4)])
    with pytest.raises(ConfigError, match=r"run_dir: .*/run exists; .*--resume=true"):
        fit(options)
    assert fit([*options, "--resume=true"]).trainer.global_step == 6
