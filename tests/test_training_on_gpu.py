"""Training on a GPU: compiled and replayed steps learn what plain ones do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lrnn.fit import fit
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.errors import ConfigError

pytestmark = pytest.mark.gpu
OPTIONS = (
    "--trainer.accelerator=gpu",
    "--trainer.devices=1",
    "--trainer.precision=32-true",
    "--trainer.max_steps=20",
    "--trainer.gradient_clip_val=0.5",
    "--trainer.callbacks=[]",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)
# Adam with a small epsilon moves a weight by the rate even where its gradient is a rounding error, so that runs part.
EPSILON = "--model.adam_eps=1e-3"
RATE = "--model.learning_rate=1e-3"  # one for all models, so that one tolerance fits how far their weights move
MIXED = "--trainer.precision=bf16-mixed"
RECIPE = ("--model.gate_saturation=0",)
SHORT = ("--data.train_lengths=[3,8]", "--data.batch_size=32")  # sLSTM compiles for every token
CONFIGS = {("conf/parity.yaml",): RECIPE, ("conf/parity_mamba.yaml",): RECIPE}
CONFIGS |= {
    ("conf/paper/protocol.yaml", f"conf/paper/models/{name}.yaml"): SHORT
    for name in ("transformer", "mlstm", "slstm", "diagonal", "full_matrix")
}
CONFIGS[("conf/paper/groups_protocol.yaml", "conf/paper/models/groups_full_matrix.yaml")] = SHORT


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)


def assert_same_weights(one, other):
    """Check that two runs of 20 steps end with the same weights, but for what rounding adds."""
    for name, weight in one.items():
        torch.testing.assert_close(
            other[name], weight, rtol=1e-2, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("files", CONFIGS, ids=lambda files: Path(files[-1]).stem)
@pytest.mark.filterwarnings("ignore")  # of the compiler and of flash-linear-attention
def test_recorded_steps_equal_plain_ones(files, tmp_path):
    ends = []
    for name, options in (("plain", ("--compile.enabled=false",)), ("recorded", ("--compile.cuda_graphs=true",))):
        configs = (f"--config={file}" for file in files)
        cli = fit([*configs, f"--run_dir={tmp_path / name}", *OPTIONS, EPSILON, RATE, *CONFIGS[files], *options])
        assert cli.trainer.global_step == 20
        assert not cli.trainer.optimizers[0].param_groups[0]["capturable"]
        ends.append(cli.model.state_dict())
    assert_same_weights(*ends)


@pytest.mark.timeout(600)
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_what_one_does(tmp_path):
    ends = []
    for name, *options in (
        ("one", "--trainer.devices=1", "--trainer.accumulate_grad_batches=2"),
        ("ddp", "--trainer.devices=2", "--trainer.strategy=ddp"),
        ("fsdp2", "--trainer.devices=2", "--trainer.strategy=fsdp2"),
    ):
        run = [sys.executable, "-m", "lrnn.fit", "--config=conf/parity.yaml", f"--run_dir={tmp_path / name}"]
        subprocess.run([*run, *OPTIONS, EPSILON, RATE, *options], check=True, timeout=200)
        ends.append(load_model(tmp_path / name / "checkpoints/last.ckpt").state_dict())
    for end in ends[1:]:
        assert_same_weights(ends[0], end)


@pytest.mark.parametrize("form", ["auto", "chunked"])
@pytest.mark.filterwarnings("ignore")
def test_a_forget_gate_trains_compiled_in_mixed_precision(form, tmp_path):
    """The gradient of the chunked form is compiled under autocast; that of the kernel is not compiled."""
    model = "--model=lrnn.models.DeltaProduct", "--model.forget_gate=true", f"--model.form={form}"
    cli = fit(["--config=conf/parity.yaml", *model, f"--run_dir={tmp_path}/run", *OPTIONS, MIXED])
    assert cli.trainer.global_step == 20


@pytest.mark.filterwarnings("ignore")
def test_recorded_steps_refuse_accumulation(tmp_path):
    options = ("--compile.cuda_graphs=true", "--trainer.accumulate_grad_batches=2")
    with pytest.raises(ConfigError, match=r"compile\.cuda_graphs: needs one device"):
        fit(["--config=conf/parity.yaml", f"--run_dir={tmp_path}/run", *OPTIONS, *options])


@pytest.mark.filterwarnings("ignore")
def test_recorded_steps_follow_a_curriculum_and_both_phases_of_state_consistency(tmp_path):
    options = [*OPTIONS, "--trainer.max_steps=80", "--model.consistency_start=100", "--model.consistency_ramp=40"]
    options += ["--data.batch_size=32", EPSILON]
    options += ["--data.curriculum=[{lengths: [2, 2], samples: 650}]"]  # the last batch of the stage has both lengths
    ends = []
    for recorded in ("false", "true"):
        own = [f"--compile.cuda_graphs={recorded}", f"--run_dir={tmp_path / recorded}"]
        cli = fit(["--config=conf/groups.yaml", *options, *own])
        ends.append(cli.model.consistency)
    plain, replayed = ends
    assert plain.began == replayed.began == 50
    assert plain.weight == replayed.weight == pytest.approx(0.5 * 30 / 40)
    assert torch.equal(plain.seen, replayed.seen) and plain.seen.sum() == 6
    assert (plain.table - replayed.table).norm() < 0.05 * plain.table.norm()
    assert replayed.cross_entropy.item() == pytest.approx(plain.cross_entropy.item(), rel=0.05)
