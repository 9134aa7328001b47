"""Pretraining from token shards as a user meets it: perplexity, kill and resume, damage found before the first step."""

import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from ranks import environments, free_port
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lrnn.fit import FitCLI, fit
from lrnn.generate import load_model
from lrnn.runtime.checkpoint import read_metadata
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parent.parent
TINY = (
    "--config=conf/pretrain_smoke.yaml",
    "--model.width=16",
    "--model.mlp_width=16",
    "--model.layers=1",
    "--data.batch_size=4",
    "--data.context=8",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def shards(write_shards, tmp_path):
    """200 rows of counting up, over a vocabulary of 50."""
    documents = [[3 + (i + j) % 47 for j in range(47)] for i in range(40)]
    return write_shards(tmp_path / "shards", [documents[:20], documents[20:35]], [documents[35:]], vocab_size=50)


def scalars(run_dir, name):
    """{step: value} of a run, also of one that was resumed."""
    events = EventAccumulator(str(run_dir))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


class GradientNorms(L.Callback):
    def __init__(self):
        self.at = {}

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.at[trainer.global_step] = math.sqrt(sum(p.grad.square().sum().item() for p in module.parameters()))


def test_perplexity_is_that_of_the_model_and_falls(shards, tmp_path):
    options = [*TINY, f"--data.shards={shards}", f"--run_dir={tmp_path}/run", "--trainer.max_steps=200"]
    norms = GradientNorms()
    cli = fit([*options, "--data.batch_size=8"], [norms])
    curve = list(scalars(tmp_path / "run", "val/perplexity").values())
    assert len(curve) == 4 and curve[-1] < curve[0] < 60
    ids = torch.from_numpy(np.fromfile(shards / "validation-00000.bin", np.uint16).astype("int64"))
    rows = ids[: len(ids) - 1 - (len(ids) - 1) % 8], ids[1 : len(ids) - (len(ids) - 1) % 8]
    inputs, labels = (part.view(-1, 8) for part in rows)
    with torch.no_grad():
        logits, _ = cli.model.eval()(inputs)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert curve[-1] == pytest.approx(math.exp(loss), rel=1e-4)
    # and what Throughput says
    assert scalars(tmp_path / "run", "train/tokens") == {step: step * 8 * 8 for step in range(10, 201, 10)}
    for step, norm in scalars(tmp_path / "run", "train/gradient_norm").items():
        assert norm == pytest.approx(norms.at[step], rel=1e-5)
    rates, waiting = (scalars(tmp_path / "run", f"speed/{name}") for name in ("tokens_per_second", "share_waiting"))
    assert min(rates.values()) > 0 and all(0 < share < 1 for share in waiting.values())


TWO_NODES = "--trainer.num_nodes=2", "--trainer.devices=1"


def torchrun(*arguments):
    """Start torchrun on two "nodes" of one process."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    run += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    command = ["-m", "lrnn.fit", *arguments, *TWO_NODES]
    return [subprocess.Popen([*run, f"--node_rank={node}", *command]) for node in (0, 1)]


def two_processes(start_fit, *arguments, nodes=1):
    """Start the processes that torchrun starts, in the environment that it gives them."""
    arguments += TWO_NODES if nodes == 2 else ("--trainer.devices=2",)
    return [start_fit(*arguments, **environment) for environment in environments(2, nodes)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_killed_processes_resume_bit_for_bit_replicated_and_sharded(shards, tmp_path, start_fit):
    """Over several epochs, with a reading process a rank, accumulation, clipping, tied embeddings and parameters that
    weight decay must spare; and DDP and FSDP learn the same. What two processes of one node began, two nodes end."""
    options = [f"--data.shards={shards}", "--data.num_workers=1", "--trainer.max_steps=60", "--checkpoint_every=5"]
    options += [f"--trainer.{key}" for key in ("accumulate_grad_batches=2", "gradient_clip_val=0.1")]
    options += [f"--trainer.{key}" for key in ("log_every_n_steps=1", "val_check_interval=20")]
    options += ["--model=lrnn.models.Mamba", "--model.tie_embeddings=true", "--model.weight_decay=1"]
    strategies = ("ddp", "fsdp2")
    ended, cut_at = [], {}
    for strategy in strategies:
        run = [*TINY, *options, f"--trainer.strategy={strategy}", "--run_dir"]
        whole, cut = (str(tmp_path / strategy / name) for name in ("whole", "cut"))
        ranks = two_processes(start_fit, *run, cut)
        checkpoint = Path(cut, "checkpoints/last.ckpt")
        while not checkpoint.exists():
            assert [rank.poll() for rank in ranks] == [None, None]
            time.sleep(random.uniform(0.01, 0.1))
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
            rank.wait()
        cut_at[strategy] = read_metadata(checkpoint)["global_step"]
        ended += two_processes(start_fit, *run, whole)
        if strategy == "ddp":
            ended += torchrun(*run, cut, "--resume=true")
        else:
            ended += two_processes(start_fit, *run, cut, "--resume=true", nodes=2)
    assert [process.wait() for process in ended] == [0] * 8

    curves = {}
    for strategy in strategies:
        folders = [tmp_path / strategy / name for name in ("whole", "cut")]
        ends = [read_metadata(folder / "checkpoints/last.ckpt") for folder in folders]
        assert 0 < cut_at[strategy] < 60 and [end["global_step"] for end in ends] == [60, 60]
        assert [end["FineWeb"]["samples_consumed"] for end in ends] == [60 * 2 * 4 * 2] * 2
        for name in ("train/loss", "train/gradient_norm", "train/learning_rate"):
            curves[strategy, name], after = (scalars(folder, name) for folder in folders)
            after = {step: value for step, value in after.items() if step >= cut_at[strategy]}
            assert len(after) >= 59 - cut_at[strategy] and after.items() <= curves[strategy, name].items()
        models = [load_model(folder / "checkpoints/last.ckpt") for folder in folders]
        for name, weight in models[0].state_dict().items():
            assert torch.equal(weight, models[1].state_dict()[name]), name
        curves[strategy, "A_log"] = dict(enumerate(models[0].backbone.blocks[0].mixer.A_log.flatten().tolist()))
    for name, tolerance in (("train/loss", 1e-3), ("train/gradient_norm", 1e-2), ("A_log", 0.02)):
        assert curves["fsdp2", name] == pytest.approx(curves["ddp", name], rel=0, abs=tolerance), name
    with pytest.raises(ConfigError, match=r"trainer.strategy: .*last.ckpt is in shards; .*--trainer.strategy=fsdp2"):
        fit([*TINY, *options, f"--run_dir={tmp_path}/fsdp2/whole", "--resume=true"])


@pytest.mark.parametrize(("name", "millions"), [("340m", 340), ("mamba_370m", 370), ("1b", 1300)])
def test_the_large_models_are_as_large_as_their_names(name, millions, random_shards, tmp_path):
    """Within 5 %, with either range; and one machine builds them by plain overrides, replicated and sharded."""
    one = [f"--config=conf/pretrain_{name}.yaml", f"--data.shards={random_shards}", f"--run_dir={tmp_path}/run"]
    one += ["--trainer.accelerator=cpu", "--trainer.num_nodes=1", "--trainer.devices=1", "--data.batch_size=1"]
    for span, *options in (("[0,1]",), ("[-1,1]", "--trainer.strategy=fsdp2")):
        with torch.device("meta"):
            cli = FitCLI([*one, f"--model.eigenvalue_range={span}", *options])
        assert sum(p.numel() for p in cli.model.parameters()) == pytest.approx(millions * 1e6, rel=0.05)


def flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (flip, [], "train-00001.bin is damaged: its sha256 is not that of the manifest"),
        (lambda path: path.unlink(), [], "train-00001.bin is missing"),
        (
            lambda path: None,
            ["--data.tokenizer=conf"],
            "data.tokenizer: conf holds neither tokenizer.json",
        ),
        (lambda path: None, ["--data.shards=nothing"], "nothing holds no manifest.json"),
        (lambda path: None, ["--data.batch_size=300"], "data.batch_size: must be at most"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_in_one_line(change, options, message, shards, tmp_path):
    change(shards / "train-00001.bin")
    with pytest.raises(ConfigError) as error:
        fit([*TINY, f"--data.shards={shards}", f"--run_dir={tmp_path}/run", *options])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_gradient_norm_is_logged_without_the_loss_scale(shards, tmp_path):
    logged = []
    for precision in ("32-true", "16-mixed"):  # a scale of 65,536
        options = (f"--trainer.precision={precision}", "--trainer.accelerator=gpu", "--trainer.limit_val_batches=0")
        steps = ("--trainer.max_steps=10", "--trainer.log_every_n_steps=1")
        fit([*TINY, f"--data.shards={shards}", f"--run_dir={tmp_path}/{precision}", *options, *steps])
        logged.append(scalars(tmp_path / precision, "train/gradient_norm"))
    assert logged[1][1] == pytest.approx(logged[0][1], rel=0.05)
