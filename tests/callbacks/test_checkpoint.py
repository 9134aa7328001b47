"""What may go wrong with a checkpoint: weights that are not finite, a full disk, damage."""

import errno
import pickle
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch

from callbacks import TrainingDivergedError
from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from callbacks.strategy.fully_sharded import FullySharded, _as_os_error
from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.whole_checkpoint import read_whole

ROOT = Path(__file__).parents[2]
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


class NaNGradient(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == self.step:
            next(module.parameters()).grad.fill_(torch.nan)


@pytest.mark.parametrize(("step", "every", "kept"), [(12, 5, 10), (19, 7, 14), (17, 5, 15)])
def test_weights_that_are_not_finite_never_replace_a_checkpoint(step, every, kept, tmp_path):
    """Clipping makes one NaN in a gradient a NaN in every weight; the losses are looked at every 50 steps only."""
    options = [*TINY, f"--run_dir={tmp_path}/run", "--trainer.max_steps=20", f"--checkpoint_every={every}"]
    with pytest.raises(TrainingDivergedError, match=r"^(a weight|the loss) was not finite"):
        fit([*options, "--trainer.gradient_clip_val=1"], [NaNGradient(step)])
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == kept
    assert all(weight.isfinite().all() for weight in last["state_dict"].values())
    assert fit([*options, "--resume=true"]).trainer.global_step == 20


def test_best_weights_are_finite(tmp_path):
    options = [*TINY[:-1], f"--run_dir={tmp_path}/run", "--trainer.max_steps=20", "--trainer.val_check_interval=10"]
    options += ["--trainer.callbacks=callbacks.BestWeights", "--trainer.callbacks.samples=8"]
    with pytest.raises(TrainingDivergedError):
        fit(options, [NaNGradient(8)])
    assert not (tmp_path / "run/checkpoints/best.ckpt").exists()


class FullDisk:
    """A file that takes the first bytes only."""

    def __init__(self, file):
        self.file, self.left = file, 5000

    def write(self, content):
        self.left -= len(content)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("plugins", ["null", "lightning.pytorch.plugins.io.AsyncCheckpointIO"])
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(plugins, tmp_path, monkeypatch):
    options = [*TINY, f"--run_dir={tmp_path}/run", "--trainer.max_steps=20", "--checkpoint_every=5"]
    options.append(f"--trainer.plugins={plugins}")
    save = torch.save

    def full_after_two(checkpoint, file):
        save(checkpoint, FullDisk(file) if checkpoint["global_step"] > 10 else file)

    monkeypatch.setattr(torch, "save", full_after_two)
    with pytest.raises(ConfigError, match=r"^[^\n]*No space left on device: [^\n]*/run/checkpoints/last.ckpt.new'$"):
        fit(options)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 10


def test_a_checkpoint_is_written_beside_the_old_one(tmp_path, monkeypatch):
    """And not into the folder of temporary files, which may be another disk."""
    monkeypatch.setattr("tempfile.mkstemp", None)
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "folder/last.ckpt")
    assert torch.load(tmp_path / "folder/last.ckpt") == {"a": 1}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: 1}, tmp_path / "folder/last.ckpt")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["last.ckpt"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:3000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def rewrite(change):
    def damage(path):
        saved = torch.load(path, weights_only=True)
        change(saved)
        torch.save(saved, path)

    return damage


DAMAGES = {
    "truncated": truncate,
    "one bit": flip,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"state_dict": 1})),
    "a tensor": lambda path: torch.save(torch.ones(3), path),
    "no optimizer": rewrite(lambda saved: saved.pop("optimizer_states")),
    "no data": rewrite(lambda saved: saved.pop("Parity")),
    "no weights": rewrite(lambda saved: saved["state_dict"].popitem()),
    "an empty folder": lambda path: (path.unlink(), path.mkdir()),
}


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    options = [*TINY, f"--run_dir={tmp_path}/run", "--trainer.max_steps=3"]
    fit(options)
    last, good = tmp_path / "run/checkpoints/last.ckpt", tmp_path / "good.ckpt"
    shutil.copy(last, good)
    for name, damage in DAMAGES.items():
        shutil.copy(good, last)
        damage(last)
        with pytest.raises(ConfigError, match=r"^resume: [^\n]{1,290}$") as error:
            fit([*options, "--resume=true"])
        assert "last.ckpt" in str(error.value), name


def test_the_reason_why_a_shard_was_not_written_is_found(tmp_path):
    from torch.distributed.checkpoint.api import CheckpointException

    def failed():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  # as PyTorch's writer raises it

    try:
        failed()
    except RuntimeError as error:
        problem = _as_os_error(CheckpointException("write", {1: (error, None)}), tmp_path)
    assert problem.errno == errno.ENOSPC and problem.filename == str(tmp_path)


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:FSDP2-wrapped module")
def test_shards_in_a_folder_that_is_reached_by_a_link_are_kept(tmp_path):
    """As where runs/ links to a larger disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    options = [*TINY, f"--run_dir={tmp_path}/runs/run", "--trainer.strategy=fsdp2", "--checkpoint_every=1"]
    options.append("--trainer.log_every_n_steps=1")
    for steps, more in ((2, []), (3, ["--resume=true"])):
        cli = fit([*options, f"--trainer.max_steps={steps}", *more])
        assert read_whole(cli.checkpoint)["global_step"] == steps
        assert {path.resolve() for path in cli.checkpoint.parent.iterdir()} == {cli.checkpoint.resolve()}


def test_what_keeps_shards_from_starting_is_said(tmp_path, monkeypatch):
    """The end of the run finds no checkpoint to wait for, and no error of its own."""

    def no_connection(self):
        raise OSError(errno.EADDRINUSE, "the port is taken")

    monkeypatch.setattr(FullySharded, "_setup_distributed", no_connection)
    with pytest.raises(ConfigError, match="the port is taken"):
        fit([*TINY, f"--run_dir={tmp_path}/run", "--trainer.strategy=fsdp2", "--trainer.max_steps=1"])
