"""A run resumes with the training samples that it began with: options that would change them are refused."""

import inspect
import shutil
from pathlib import Path

import pytest
import torch

import data
from data import FineWeb, StateTrackingText
from data.resumable import ResumableData
from data.text.tokenizer import load_tokenizer
from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]
CURRICULUM = "[{lengths: [2, 2], samples: 8}]"
SHARED = (
    "--model=lrnn.models.Diagonal",
    "--model.width=8",
    "--model.layers=1",
    "--trainer.accelerator=cpu",
    "--trainer.callbacks=[]",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=-1",
)
KINDS = {
    "group": ("--data=GroupWordProblem", "--data.group=S3", "--data.train_lengths=[4,4]", "--data.batch_size=2"),
    "brackets": ("--data=ModularArithmeticBrackets", "--data.train_lengths=[5,9]", "--data.batch_size=2"),
    "parity": ("--data=Parity", f"--data.curriculum={CURRICULUM}", "--data.batch_size=2"),
    "documents": ("--data=StateTrackingText", "--data.context=32", "--data.batch_size=2", "--data.num_workers=0"),
}
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a run of one kind for 2 steps, once; return its options."""
    runs = {}

    def train(kind):
        if kind not in runs:
            runs[kind] = tmp_path_factory.mktemp("runs") / kind
            fit([*SHARED, *KINDS[kind], f"--run_dir={runs[kind]}", "--trainer.max_steps=2"])
        return [*SHARED, *KINDS[kind], f"--run_dir={runs[kind]}", "--resume=true"]

    return train


def copied(options, folder):
    """Copy the run of these options. Return the options that continue the copy."""
    (run_dir,) = (option.partition("=")[2] for option in options if option.startswith("--run_dir="))
    shutil.copytree(run_dir, folder)
    return [*options, f"--run_dir={folder}"]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        # of the same size as S3, so that all weights fit
        ("group", "--data.group=Z6", "data.group: the checkpoint was trained with S3, got Z6"),
        ("group", "--data.alphabet=swaps", "data.alphabet: the checkpoint was trained with all, got swaps"),
        ("group", "--data.tokens_per_element=2", "data.tokens_per_element: the checkpoint was trained with 1, got 2"),
        ("group", "--data.training_labels=last", "trained with every_token, got last"),
        ("group", "--data.train_lengths=[4,5]", "data.train_lengths: the checkpoint was trained with [4, 4], got [4,"),
        ("brackets", "--data.multiplication=true", "data.multiplication: the checkpoint was trained with False, got"),
        ("parity", "--data.supervision=every_prefix", "data.supervision: the checkpoint was trained with last, got"),
        ("parity", "--data.curriculum=null", "data.curriculum: the checkpoint was trained with [{'lengths': [2, 2], "),
        ("parity", "--data.curriculum=[{lengths: [2, 2], samples: 9}]", "'samples': 8}], got [{'lengths': [2, 2], 's"),
        ("parity", "--seed_everything=1", "data.seed: the checkpoint was trained with 0, got 1"),
        ("documents", "--data.families=[boards]", "data.families: the checkpoint was trained with None, got ['boards'"),
        ("documents", "--data.context=33", "data.context: the checkpoint was trained with 32, got 33"),
    ],
)
def test_another_task_is_refused_in_one_line(kind, change, message, trained):
    with pytest.raises(ConfigError) as error:
        fit([*trained(kind), change, "--trainer.max_steps=3"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_options_that_leave_the_training_samples_alone_may_change(trained, tmp_path):
    options = copied(trained("group"), tmp_path / "moved")
    changes = ["batch_size=4", "num_workers=1", "test_lengths=[9,10]", "test_samples=3", "validation_samples=3"]
    changes += ["evaluation_seed=1", "evaluation_labels=last"]
    more = ["--trainer.max_steps=3", "--checkpoint_every=1", "--trainer.logger=false"]
    assert fit([*options, *(f"--data.{change}" for change in changes), *more]).datamodule.samples_consumed == 2 * 2 + 4


def test_checkpoints_without_the_options_resume(trained, tmp_path):
    options = copied(trained("parity"), tmp_path / "old")
    path = tmp_path / "old/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    state = saved["Parity"]
    saved["Parity"] = {name: state[name] for name in ("seed", "samples_consumed", "global_step")}
    torch.save(saved, path)
    assert saved["Parity"] != state
    assert fit([*options, "--data.curriculum=null", "--trainer.max_steps=3"]).trainer.global_step == 3


def test_shards_and_tokenizers_may_move_and_not_change(random_shards, tmp_path):
    shutil.copytree(random_shards, tmp_path / "moved")
    FineWeb(str(tmp_path / "moved"), context=16).load_state_dict(FineWeb(str(random_shards), context=16).state_dict())

    own = StateTrackingText(context=16)
    saved = own.state_dict()
    moved = shutil.copy("data/state_tracking/tokenizer.model", tmp_path / "own.model")
    StateTrackingText(context=16, tokenizer=str(moved)).load_state_dict(saved)
    assert load_tokenizer("data/mistral_v1").vocab_size != own.vocab_size
    with pytest.raises(ValueError, match=r"^data\.tokenizer: the checkpoint was trained with "):
        StateTrackingText(context=16, tokenizer="data/mistral_v1").load_state_dict(saved)


MODULES = [kind for name in data.__all__ if isinstance(kind := getattr(data, name), type)]


@pytest.mark.parametrize("kind", [kind for kind in MODULES if issubclass(kind, ResumableData)])
def test_options_that_may_change_are_options(kind):
    owners = [cls for cls in kind.__mro__ if issubclass(cls, ResumableData)]
    options = {name for cls in owners for name in inspect.signature(cls.__init__).parameters}
    assert kind.changeable_options <= options
    assert not kind.changeable_options & {"seed", "train_lengths", "curriculum", "context"}
