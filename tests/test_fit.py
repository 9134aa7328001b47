"""The command line as a user meets it: errors of one line, interruption, resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lrnn.fit import FitCLI, fit
from lrnn.generate import load_model
from lrnn.ops import forms_in_use
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parent.parent
# the other files are stacked on these, configure sweeps (tests/sweep), or ask for many GPUs (tests/test_pretrain.py)
CONFIGS = [
    path
    for path in sorted(ROOT.glob("conf/**/*.yaml"))
    if "class_path: lrnn.models" in path.read_text() and "num_nodes" not in path.read_text()
]
TINY = (
    "--config=conf/parity.yaml",
    "--data.batch_size=4",
    "--data.validation_samples=8",
    "--data.test_samples=8",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.callbacks=[]",
)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "conf")))
def test_every_configuration_builds(config, random_shards, tmp_path):
    key = "mixers.delta.eigenvalue_range" if config.stem == "hybrid" else "eigenvalue_range"
    has_range = "eigenvalue_range" in config.read_text()
    for span in ("[0,1]", "[-1,1]") if has_range else ("no range",):
        options = [f"--config={config}", f"--run_dir={tmp_path / span}", "--trainer.accelerator=cpu"]
        if config.parent == ROOT / "conf/paper/models":
            options.insert(0, "--config=conf/paper/protocol.yaml")
        if "data.FineWeb" in config.read_text():
            options.append(f"--data.shards={random_shards}")
        cli = FitCLI([*options, f"--model.{key}={span}"] if has_range else options)
        logits, _ = cli.model(next(iter(cli.datamodule.train_dataloader())).inputs[:2])
        assert logits.shape[-1] == cli.datamodule.vocab_size


def test_no_run_lies_in_the_folder_of_another_run_or_of_a_sweep():
    configs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("conf/**/*.yaml")]
    folders = [Path(config["run_dir"]) for config in configs if "run_dir" in config]
    assert len(folders) > 20
    assert not [(inner, outer) for inner in folders for outer in folders if outer in inner.parents]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config=conf/nothing.yaml"], "conf/nothing.yaml"),
        ([*TINY, "--model.eigenvalue_range=[0,2]"], "eigenvalue_range: must be [0, 1] or [-1, 1], got [0.0, 2.0]"),
        ([*TINY, "--model.heads=3"], "model.heads: must divide model.width (32), got 3"),
        ([*TINY, "--data.train_lengths=[0,40]"], "train_lengths: must be [shortest, longest] with 2 <= shortest"),
        ([*TINY, "--model.colour=red"], "model.colour: lrnn.models.DeltaNet has no such option"),
        ([*TINY, "--colour=red"], "colour"),
        ([*TINY, "--optimizer=torch.optim.SGD"], "the model makes its optimizer"),
        (
            [*TINY, "--data=data.Paritty"],
            "data: must be the import path of a LightningDataModule, got data.Paritty; did you mean data.Parity?",
        ),
        ([*TINY, "--trainer.max_steps=1e3"], "trainer.max_steps: must be a whole number, got 1000.0"),
        ([*TINY, "--model.betas=0.9,0.95"], "model.betas: must be a list, got 0.9,0.95"),
        ([*TINY, "--resume"], "resume: must have a value, as in --resume=true"),
        (["conf/parity.yaml"], "a file of options is given by --config"),
        (
            ["--config=conf/sweeps/table3.yaml"],
            "config: conf/sweeps/table3.yaml configures a sweep; use python -m lrnn.sweep --config conf/sweeps/",
        ),
        ([*TINY, "--checkpoint_every=0"], "checkpoint_every: must be at least 1, got 0"),
        ([*TINY, "--resume=true"], "resume: there is no folder"),
        ([*TINY, "--schedule.warmup=-1"], "warmup: must be at least 0"),
        ([*TINY, "--trainer.max_steps=-1"], "trainer.max_steps: must be at least 1"),
        ([*TINY, "--model.form=fastest"], "model.form"),
        ([*TINY, "--trainer.devices=10000000"], "trainer.devices: must be at most"),
        ([*TINY, "--trainer.default_root_dir=x"], "trainer.default_root_dir: is run_dir"),
        ([*TINY, "--trainer.num_nodes=2"], "trainer.num_nodes: 2 nodes are started by torchrun or srun"),
        pytest.param(
            [*TINY, "--trainer.accelerator=gpu"],
            "trainer.accelerator: CUDA finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_bad_input_is_one_line_that_names_the_key(options, message, tmp_path):
    if options[-1] != "--config=conf/nothing.yaml":
        options = [*options, f"--run_dir={tmp_path / 'run'}"]
    with pytest.raises(ConfigError) as error:
        fit(options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_and_a_foreign_checkpoint_are_refused(tmp_path):
    options = [*TINY, "--trainer.max_steps=3", f"--run_dir={tmp_path}/run"]
    fit(options)
    weights = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()
    with pytest.raises(ConfigError, match=r"run_dir: .*/run exists.*--resume=true"):
        fit(options)
    with pytest.raises(ConfigError, match=r"model\.width: .* has 32, the configuration 16"):
        fit([*options, "--resume=true", "--model.width=16"])
    with pytest.raises(
        ConfigError, match=r"model: .* holds lrnn\.models\.DeltaNet, the configuration lrnn\.models\.Mamba"
    ):
        fit([*options, "--config=conf/parity_mamba.yaml", f"--run_dir={tmp_path}/run", "--resume=true"])
    with pytest.raises(ConfigError, match=r"data\.seed: the checkpoint was trained with 0, got 1"):
        fit([*options, "--resume=true", "--seed_everything=1"])
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == weights


@pytest.mark.slow
def test_the_command_line_exits_with_one_line():
    command = [sys.executable, "-m", "lrnn.fit", "--config=conf/parity.yaml", "--model.eigenvalue_range=[2,3]"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("signal_number", "accumulate"), [(signal.SIGKILL, 1), (signal.SIGINT, 2)])
def test_an_interrupted_run_resumes_bit_for_bit(signal_number, accumulate, start_fit, tmp_path):
    options = [*TINY, "--trainer.max_steps=100", "--checkpoint_every=10", "--trainer.val_check_interval=35"]
    options.append(f"--trainer.accumulate_grad_batches={accumulate}")
    whole, cut = (f"--run_dir={tmp_path / name}" for name in ("whole", "cut"))
    process = start_fit(*options, cut)
    checkpoint = tmp_path / "cut/checkpoints/last.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal_number)
    assert process.wait() != 0
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < step < 100
    assert signal_number == signal.SIGINT or step % 10 == 0
    uninterrupted, resumed = start_fit(*options, whole), start_fit(*options, cut, "--resume=true")
    assert uninterrupted.wait() == resumed.wait() == 0

    def final(name):
        return torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)

    whole_end, cut_end = final("whole"), final("cut")
    assert whole_end["global_step"] == cut_end["global_step"] == 100
    samples = [end["Parity"]["samples_consumed"] for end in (whole_end, cut_end)]
    assert samples == [100 * 4 * accumulate] * 2
    for name, weight in whole_end["state_dict"].items():
        assert torch.equal(weight, cut_end["state_dict"][name]), name


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_a_run_cut_off_in_its_last_evaluation_ends_with_the_same_weights_and_is_evaluated(tmp_path):
    class CutOff(L.Callback):
        def on_train_end(self, *_):
            raise KeyboardInterrupt

    options = [*TINY[:-1], "--trainer.max_steps=20", "--checkpoint_every=10"]
    options += [f"--trainer.callbacks.init_args.{key}" for key in ("samples=8", "lengths=[40]", "final_lengths=[]")]
    fit([*options, f"--run_dir={tmp_path}/whole"])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit([*options, f"--run_dir={tmp_path}/cut", "--trainer.callbacks=[]"], [CutOff()])
    fit([*options, f"--run_dir={tmp_path}/cut", "--resume=true"])
    whole, cut = (torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut"))
    assert whole["global_step"] == cut["global_step"] == 20
    assert all(torch.equal(weight, cut["state_dict"][name]) for name, weight in whole["state_dict"].items())
    results = [(tmp_path / name / "length_generalization.json").read_text() for name in ("whole", "cut")]
    assert results[0] == results[1]


def test_accumulated_steps_equal_one_large_batch(tmp_path):
    """Micro-batches have different numbers of labels, and gate saturation adds to the loss."""
    common = (*TINY, "--trainer.max_steps=5", "--trainer.precision=64-true", "--trainer.log_every_n_steps=2")
    ends, losses = [], []
    for batch_size, accumulate in ((4, 4), (1, 16), (16, 1)):
        run = [f"--data.batch_size={batch_size}", f"--trainer.accumulate_grad_batches={accumulate}"]
        cli = fit([*common, *run, f"--run_dir={tmp_path}/{batch_size}"])
        assert cli.datamodule.samples_consumed == 80
        ends.append(cli.model.backbone.head.weight.detach())
        events = EventAccumulator(f"{tmp_path}/{batch_size}").Reload()
        steps = [[event.step for event in events.Scalars(f"train/{name}")] for name in ("loss", "gate_saturation")]
        assert steps == [[1, 3]] * 2
        losses.append([event.value for event in events.Scalars("train/loss")])
    assert losses[0] == pytest.approx(losses[2], rel=1e-6) and losses[1] == pytest.approx(losses[2], rel=1e-6)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ends[1], ends[2], rtol=1e-9, atol=1e-9)


def test_the_data_has_the_seed_that_lightning_chooses(tmp_path):
    cli = fit([*TINY, "--trainer.max_steps=1", "--seed_everything=true", f"--run_dir={tmp_path}/run"])
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert cli.datamodule.seed == saved["seed_everything"]


class Float16(MixedPrecision):
    """Lightning's float16 precision, which it replaces by bfloat16 on a CPU unless it is given as a plugin."""

    def __init__(self):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))


@pytest.mark.parametrize("precision", ["precision=32-true", "precision=bf16-mixed", f"plugins={__name__}.Float16"])
def test_gradients_are_clipped(precision, tmp_path):
    class Norms(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            norms.append(torch.stack([p.grad.norm() for p in module.parameters()]).norm().item())

    norms = []
    options = [*TINY, "--trainer.max_steps=3", f"--run_dir={tmp_path}/run", f"--trainer.{precision}"]
    fit([*options, "--trainer.gradient_clip_val=0.01"], [Norms()])
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_length_generalization_is_logged_during_training_and_at_the_end(tmp_path):
    options = [*TINY[:-1], "--trainer.max_steps=6", "--trainer.val_check_interval=2", f"--run_dir={tmp_path}/run"]
    options += [f"--trainer.callbacks.init_args.{key}" for key in ("samples=8", "lengths=[40]", "final_lengths=[64]")]
    fit(options)
    events = EventAccumulator(f"{tmp_path}/run")
    events.Reload()
    assert [event.step for event in events.Scalars("length/40")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("length/64")] == [6]
    assert [event.step for event in events.Images("length_generalization")] == [2, 4, 6]


@pytest.mark.slow
def test_two_processes_train_log_and_evaluate_as_one(tmp_path):
    """2 ranks of 4, or of 2 batches of 2, take and log the steps of 1 rank of 8, also with state consistency."""
    options = [*TINY[:-1], "--trainer.max_steps=60", "--trainer.precision=64-true", "--data.test_samples=600"]
    options += ["--model.state_consistency=0.5", "--model.consistency_start=100", "--data.train_lengths=[40,40]"]
    options += [f"--trainer.callbacks.init_args.{key}" for key in ("samples=8", "lengths=[40]", "final_lengths=[]")]
    ends, results, logged = [], [], []
    for ranks, batches in ((1, 1), (2, 1), (2, 2)):
        folder = tmp_path / f"{ranks}_{batches}"
        run = [*options, f"--data.batch_size={8 // ranks // batches}", f"--run_dir={folder}"]
        run += [f"--trainer.devices={ranks}", f"--trainer.accumulate_grad_batches={batches}"]
        run += ["--trainer.log_every_n_steps=20"]
        if ranks == 1:
            fit(run)
        else:  # Lightning starts the second process by the same command
            command = [sys.executable, "-m", "lrnn.fit", *run, "--trainer.strategy=ddp"]
            subprocess.run(command, check=True, timeout=200)
        ends.append(torch.load(folder / "checkpoints/last.ckpt", weights_only=True))
        results.append(json.loads((folder / "length_generalization.json").read_text()))
        events = EventAccumulator(str(folder)).Reload()
        tags = ("train/loss", "train/state_consistency", "train/state_ratio")
        logged.append([[event.value for event in events.Scalars(tag)] for tag in tags])
    assert [end["Parity"]["samples_consumed"] for end in ends] == [480] * 3
    assert ends[0]["state_dict"]["consistency.began"] == 50
    assert [len(values) for values in logged[0]] == [3, 3, 3]
    for end, values, result in zip(ends[1:], logged[1:], results[1:], strict=True):
        for name, weight in ends[0]["state_dict"].items():
            averaged = end is ends[2] and name == "consistency.cross_entropy"  # a running mean of twice as many batches
            tolerance = 1e-2 if averaged else 1e-9
            torch.testing.assert_close(end["state_dict"][name], weight, rtol=tolerance, atol=tolerance)
        assert values[0] == pytest.approx(logged[0][0], rel=1e-6)
        assert result == results[0]


def test_the_forms_that_the_ops_run_in_are_recorded(tmp_path):
    forms_in_use["mlstm"] = "chunked"  # by an earlier run in this process
    fit([*TINY, "--trainer.max_steps=1", f"--run_dir={tmp_path}/run"])
    assert yaml.safe_load((tmp_path / "run/hparams.yaml").read_text())["form"] == "auto"
    recorded = json.loads((tmp_path / "run/forms_in_use.json").read_text())
    assert recorded["delta_rule"] == "chunked" and "mlstm" not in recorded
    assert load_model(f"{tmp_path}/run/checkpoints/last.ckpt").hparams["form"] == "auto"


@pytest.mark.parametrize(
    "logger",
    [
        ["--trainer.logger=false"],
        ["--trainer.logger=true"],
        ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=elsewhere"],
    ],
)
def test_all_of_a_run_is_in_its_folder_whatever_logs(logger, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("mine")
    options = [f"--config={ROOT}/conf/parity.yaml", *TINY[1:-1], *logger, "--run_dir=run", "--trainer.max_steps=2"]
    options += [f"--trainer.callbacks.init_args.{key}" for key in ("samples=8", "lengths=[40]", "final_lengths=[]")]
    options += ["--trainer.callbacks+=callbacks.BestWeights", "--trainer.callbacks.samples=8"]
    fit([*options, "--trainer.val_check_interval=1"])
    assert Path("config.yaml").read_text() == "mine"
    said = "outside of run_dir, run" in caplog.text
    assert sorted(os.listdir()) == (["config.yaml", "elsewhere", "run"] if len(logger) == 2 else ["config.yaml", "run"])
    assert said == (len(logger) == 2)
    assert sorted(os.listdir("run/checkpoints")) == ["best.ckpt", "last.ckpt"]
    assert {"config.yaml", "forms_in_use.json", "length_generalization.json"} <= set(os.listdir("run"))
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["max_steps"] == 2
    scores = json.loads(Path("run/length_generalization.json").read_text())
    assert f"{scores['scaled_accuracy']:.3f} on the test set" in caplog.text
    assert f"{scores['scaled_accuracy_at']['40']:.3f} at 40; written to run/" in caplog.text
