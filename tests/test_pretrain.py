"""Pretraining from token shards as a user meets it: perplexity, kill and resume, damage found before the first step."""

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lrnn.fit import ConfigError, fit

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


def test_perplexity_is_that_of_the_model_and_falls(shards, tmp_path):
    options = [*TINY, f"--data.shards={shards}", f"--run_dir={tmp_path}/run", "--trainer.max_steps=200"]
    cli = fit([*options, "--data.batch_size=8"])
    events = EventAccumulator(f"{tmp_path}/run")
    events.Reload()
    curve = [event.value for event in events.Scalars("val/perplexity")]
    assert len(curve) == 4 and curve[-1] < curve[0] < 60
    ids = torch.from_numpy(np.fromfile(shards / "validation-00000.bin", np.uint16).astype("int64"))
    rows = ids[: len(ids) - 1 - (len(ids) - 1) % 8], ids[1 : len(ids) - (len(ids) - 1) % 8]
    inputs, labels = (part.view(-1, 8) for part in rows)
    with torch.no_grad():
        logits, _ = cli.model.eval()(inputs)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert curve[-1] == pytest.approx(math.exp(loss), rel=1e-4)


def test_a_killed_run_of_two_processes_resumes_bit_for_bit(shards, tmp_path):
    """Over several epochs, with a reading process a rank."""
    command = [sys.executable, "-m", "lrnn.fit", *TINY, f"--data.shards={shards}", "--data.num_workers=1"]
    command += ["--trainer.max_steps=120", "--checkpoint_every=10", "--trainer.devices=2", "--trainer.strategy=ddp"]
    whole, cut = (f"--run_dir={tmp_path / name}" for name in ("whole", "cut"))
    subprocess.run([*command, whole], check=True)
    process = subprocess.Popen([*command, cut], start_new_session=True)
    checkpoint = tmp_path / "cut/checkpoints/last.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < torch.load(checkpoint, weights_only=True)["global_step"] < 120
    subprocess.run([*command, cut, "--resume=true"], check=True)
    ends = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut")]
    assert [end["FineWeb"]["samples_consumed"] for end in ends] == [120 * 2 * 4] * 2
    for name, weight in ends[0]["state_dict"].items():
        assert torch.equal(weight, ends[1]["state_dict"][name]), name


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
            "tokenizer: conf holds neither tokenizer.json",
        ),
        (lambda path: None, ["--data.shards=nothing"], "nothing holds no manifest.json"),
        (lambda path: None, ["--data.batch_size=300"], "1 ranks of 300 need 300 training rows"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_in_one_line(change, options, message, shards, tmp_path):
    change(shards / "train-00001.bin")
    with pytest.raises(ConfigError) as error:
        fit([*TINY, f"--data.shards={shards}", f"--run_dir={tmp_path}/run", *options])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run/checkpoints").exists()
