import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.text.shards import Manifest, ShardWriter, token_dtype
from data.text.tokenizer import tokenizer_sha256

ROOT = Path(__file__).parent.parent

os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start: threads of several would wait for each other
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it then runs kernels on the CPU


@pytest.fixture(autouse=True)
def _fixed_seed_one_thread_and_no_ranks():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    if torch.distributed.is_initialized():  # by a run with DDP on one device, in this process
        torch.distributed.destroy_process_group()
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)  # also of a run that did not start; the next one looks for a free port of its own


def pytest_configure():
    """Forget pytest's arguments. In one process (-n 0), Lightning would warn of arguments beside those of a run."""
    del sys.argv[1:]


def pytest_collection_modifyitems(items):
    """Start the slow tests first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class Forked:
    """A process of the fork server, with the methods of subprocess.Popen that tests call."""

    def __init__(self, ask, pid):
        self.ask, self.pid, self.returncode = ask, pid, None

    def poll(self):
        if self.returncode is None:
            self.returncode = self.ask(poll=self.pid)
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        os.killpg(self.pid, number)


@pytest.fixture(scope="session")
def start_fit():
    """Start lrnn.fit with these arguments and this environment in a process of its own, without the time to import."""
    code = "import runpy; runpy.run_path('tests/fork_server.py')"  # this way, sys.path begins with the checkout
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)

    def ask(**command):
        server.stdin.write(json.dumps(command) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield lambda *arguments, **environment: Forked(ask, ask(arguments=arguments, environment=environment))
    server.communicate()


@pytest.fixture
def train_whole_and_cut(tmp_path):
    """Train a run without a break, and one that is cut off after a step and resumed; both must end with the same bits.

    `train_whole_and_cut(options, step)` gives the end of the first. The runs are in tmp_path/whole and tmp_path/cut.
    """
    import lightning as L

    from lrnn.fit import fit

    class CutOff(L.Callback):
        def __init__(self, step):
            self.step = step

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == self.step:
                trainer.save_checkpoint(Path(trainer.log_dir, "checkpoints/last.ckpt"))
                raise KeyboardInterrupt

    def train(options, step):
        whole = fit([*options, f"--run_dir={tmp_path}/whole"])
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit([*options, f"--run_dir={tmp_path}/cut"], [CutOff(step)])
        fit([*options, f"--run_dir={tmp_path}/cut", "--resume=true"])
        ends = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut")]
        assert ends[0]["global_step"] == ends[1]["global_step"] > step
        for name, weight in ends[0]["state_dict"].items():
            assert torch.equal(weight, ends[1]["state_dict"][name]), name
        return whole

    return train


@pytest.fixture(scope="session")
def write_shards():
    """Write (folder, train=[[document, ...], ...], validation=..., vocab_size) as shards; documents end in EOS, 2."""

    def write(folder, train, validation, vocab_size=32000):
        folder.mkdir(parents=True)
        splits = {}
        for split, shards in (("train", train), ("validation", validation)):
            splits[split] = ()
            for i, documents in enumerate(shards):
                writer = ShardWriter(folder / f"{split}-{i:05}.bin")
                for document in documents:
                    writer.write(np.array([*document, 2], token_dtype(vocab_size)), 1)
                splits[split] += writer.close()
        manifest = Manifest(
            tokenizer="data/mistral_v1",
            tokenizer_sha256=tokenizer_sha256(str(ROOT / "data/mistral_v1")),
            vocab_size=vocab_size,
            eos=2,
            dtype=token_dtype(vocab_size).name,
            settings={},
            skipped=0,
            splits=splits,
        )
        manifest.save(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def random_shards(write_shards, tmp_path_factory):
    """40 rows of 2,048 + 1 tokens to train on, 4 to validate."""
    draw = np.random.default_rng(0).integers
    documents = [draw(3, 32000, 1000) for _ in range(90)]
    return write_shards(
        tmp_path_factory.mktemp("data") / "shards", [documents[:50], documents[50:82]], [documents[82:]]
    )
