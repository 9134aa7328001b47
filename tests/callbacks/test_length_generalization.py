import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from callbacks import AtomicCheckpointIO, BestWeights, FullySharded, LengthGeneralization
from data import GroupWordProblem, ModularArithmetic, Parity
from lrnn.evaluate.metrics import ScaledAccuracy
from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


class CountsOnes(L.LightningModule):
    """Right while at most `memory` bits were read, then always says "even"."""

    def __init__(self, memory):
        super().__init__()
        self.memory = memory

    def forward(self, tokens, state=None):
        ones, read = state or (0, 0)
        total = ones + (tokens == 2).cumsum(1)
        position = read + torch.arange(1, tokens.shape[1] + 1)
        answer = torch.where(position <= self.memory, total % 2 + 1, 1)
        return nn.functional.one_hot(answer, 3).float(), (total[:, -1:], read + tokens.shape[1])


def test_length_generalization_scores_each_length_and_carries_the_state(tmp_path):
    task = Parity(test_samples=500, validation_samples=300)
    callback = LengthGeneralization(lengths=(40, 64), final_lengths=(300,), samples=400, segment=17)
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.datamodule = task
    callback.on_train_end(trainer, CountsOnes(memory=100).train())
    curve = callback.results["scaled_accuracy_at"]
    assert curve[40] == curve[64] == 1
    assert abs(curve[300]) < 5 / math.sqrt(400)
    assert callback.results["scaled_accuracy"] == pytest.approx((100 - 40) / 217, abs=0.15)
    assert json.loads((tmp_path / "length_generalization.json").read_text())["scaled_accuracy_at"]["40"] == 1

    metric = ScaledAccuracy(chance=0.5)  # other sequences of the same lengths, to select by
    for batch in task.evaluation_batches(40, 256, 300, validation=True):
        metric.update(CountsOnes(memory=100)(batch.inputs)[0].argmax(-1), batch.labels)
    assert callback.results["validation_scaled_accuracy"] == float(metric.compute())


class ComesAndGoes(CountsOnes):
    """Remembers as many bits after each step as MEMORY says."""

    MEMORY = (50.0, 200.0, 100.0, 60.0, 200.0, 70.0)

    def __init__(self):
        super().__init__(memory=None)
        del self.memory
        self.register_buffer("memory", torch.zeros(()))
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.memory.fill_(self.MEMORY[self.global_step])
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_best_weights_are_kept_on_one_device_only():
    with pytest.raises(MisconfigurationException, match="BestWeights keeps the best weights on one device only, got 2"):
        BestWeights().setup(SimpleNamespace(world_size=2), None, "fit")
    with pytest.raises(MisconfigurationException, match="BestWeights can't read weights in shards"):
        BestWeights().setup(SimpleNamespace(world_size=1, strategy=FullySharded()), None, "fit")
    with pytest.raises(ValueError, match="samples: must be at least 1, got 0"):
        BestWeights(samples=0)


def test_the_option_that_best_weights_replaced_is_refused(tmp_path):
    options = ["--config=conf/parity.yaml", f"--run_dir={tmp_path}/run", "--trainer.callbacks.selection_samples=9"]
    with pytest.raises(ConfigError, match=r"^trainer\.callbacks\.selection_samples: .* has no such option; [^\n]*$"):
        fit(options)


def test_the_weights_of_the_best_validation_are_kept_and_scored(tmp_path, monkeypatch):
    def train(steps, best=BestWeights, **options):
        callback = LengthGeneralization(lengths=(40, 150), final_lengths=(), samples=400)
        trainer = L.Trainer(
            accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False, max_steps=steps,
            val_check_interval=1, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[callback, *([best(samples=500)] if best else [])],
        )  # fmt: skip
        model, task = ComesAndGoes(), Parity(batch_size=4, test_samples=500, validation_samples=4)
        trainer.fit(model, datamodule=task, **options)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        assert model.memory == model.MEMORY[steps - 1]  # those of the end are the model's
        return callback.results

    def scores(memory):
        callback = LengthGeneralization(lengths=(40, 150), final_lengths=(), samples=400)
        trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
        trainer.datamodule = Parity(test_samples=500, validation_samples=4)
        callback.on_train_end(trainer, CountsOnes(memory))
        return {name: callback.results[name] for name in ("scaled_accuracy", "scaled_accuracy_at")}

    at_the_end = train(2)
    assert at_the_end["best_checkpoint"].items() >= {"step": 2, **scores(200)}.items()
    before = train(3)
    assert before["best_checkpoint"].items() >= {"step": 2, **scores(200)}.items()
    assert before.items() >= scores(100).items()
    resumed = train(4, ckpt_path=tmp_path / "last.ckpt")  # and remembers what was best before
    assert resumed["best_checkpoint"].items() >= {"step": 2, **scores(200)}.items()
    after = train(6, ckpt_path=tmp_path / "last.ckpt")  # of equals, keeps the later
    assert after["best_checkpoint"].items() >= {"step": 5, **scores(200)}.items()
    assert after.items() >= scores(70).items()
    assert "best_checkpoint" not in train(3, best=None)
    train(1)
    first = (tmp_path / "last.ckpt").rename(tmp_path / "first.ckpt")
    train(2, ckpt_path=first)
    monkeypatch.setattr(ComesAndGoes, "MEMORY", (50.0, 60.0))  # another attempt at step 2, as after a last evaluation
    again = train(2, ckpt_path=first)  # that was cut off, may differ: on a GPU, or with another batch size
    assert again["best_checkpoint"].items() >= {"step": 2, **scores(200)}.items()


def test_the_best_weights_are_scored_again_where_the_validation_sequences_change(tmp_path):
    def train(steps, lengths, **options):
        best = BestWeights(samples=500)
        trainer = L.Trainer(
            accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False, max_steps=steps,
            val_check_interval=1, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[best],
        )  # fmt: skip
        task = Parity(batch_size=4, test_lengths=lengths, validation_samples=4)
        trainer.fit(ComesAndGoes(), datamodule=task, **options)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return best.best

    assert train(1, (3, 40)) == {"step": 1, "selection_scaled_accuracy": 1.0}  # remembers 50 bits
    best = train(3, (150, 150), ckpt_path=tmp_path / "last.ckpt")
    assert best == {"step": 2, "selection_scaled_accuracy": 1.0}  # 200 bits, and 100 after step 3
    best = train(5, (90, 300), ckpt_path=tmp_path / "last.ckpt")
    assert best["step"] == 5 and best["selection_scaled_accuracy"] < 1


@pytest.mark.parametrize("lengths", [{"lengths": (2,)}, {"lengths": (), "final_lengths": (2,)}, {"prefix_length": 2}])
def test_lengths_that_the_task_does_not_have_are_refused_before_training(lengths):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.datamodule = ModularArithmetic()
    with pytest.raises(MisconfigurationException, match="lengths: ModularArithmetic needs at least 3, got 2"):
        LengthGeneralization(**lengths).setup(trainer, None, "fit")


class SlowDisk(AtomicCheckpointIO):
    def save_checkpoint(self, *args, **kwargs):
        time.sleep(0.2)
        super().save_checkpoint(*args, **kwargs)


def test_the_best_weights_are_read_when_they_are_written(tmp_path):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False, max_steps=3,
        val_check_interval=1, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback := LengthGeneralization((40,), (), samples=4), BestWeights(samples=500)],
        plugins=AsyncCheckpointIO(SlowDisk()),
    )  # fmt: skip
    trainer.fit(ComesAndGoes(), datamodule=Parity(batch_size=4, test_samples=4, validation_samples=4))
    assert callback.results["best_checkpoint"]["step"] == 2


def test_long_sequences_are_read_many_at_a_time(tmp_path):
    """As many as the model can take in one segment, not in one length."""
    read = []
    model = CountsOnes(memory=math.inf)
    model.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape))
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.datamodule = Parity(test_samples=1, validation_samples=1)
    callback = LengthGeneralization(lengths=(), final_lengths=(2**16 + 1,), samples=30, segment=2**12)
    callback.on_train_end(trainer, model)
    assert read[-16:] == [(30, 2**12)] * 16 and callback.results["scaled_accuracy_at"] == {2**16 + 1: 1.0}


class Counts60(L.LightningModule):
    """Right in Z60 while at most `memory` elements were read; then 1 too much."""

    def forward(self, tokens, state=None):
        total, read = state or (0, 0)
        total = (total + torch.where(tokens < 60, tokens, 0).cumsum(1)) % 60
        position = read + torch.arange(tokens.shape[1])
        answer = (total + (position > 20)) % 60
        return nn.functional.one_hot(answer, 63).float(), (total[:, -1:], read + tokens.shape[1])


def test_each_prefix_is_scored_and_logged(tmp_path):
    task = GroupWordProblem("Z60", train_lengths=(4, 8), test_lengths=(50, 50), test_samples=70, validation_samples=3)
    callback = LengthGeneralization((8,), (), samples=5, segment=17, prefix_length=32)
    logged, figures = {}, []
    logger = SimpleNamespace(
        log_metrics=lambda values, step: logged.update(values),
        experiment=SimpleNamespace(add_figure=lambda name, figure, step: figures.append((name, figure))),
    )
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer._loggers = [logger]
    trainer.datamodule = task
    callback.on_train_end(trainer, Counts60())
    want = [1.0] * 20 + [0.0] * 12  # after 20 elements, at t = 1, ..., 32
    assert json.loads((tmp_path / "length_generalization.json").read_text())["prefixes"] == {
        "length": 32, "samples": 70, "positions": list(range(1, 33)), "accuracy": want, "sequence_accuracy": want,
    }  # fmt: skip
    assert {t: logged[f"sequence_accuracy/{t}"] for t in (1, 2, 4, 8, 16, 32)} == dict.fromkeys(
        [1, 2, 4, 8, 16], 1.0
    ) | {32: 0.0}
    (curve, *_), *_ = ([line.get_xydata().tolist() for line in f.axes[0].lines] for n, f in figures if "token" in n)
    assert curve == [[float(t), y] for t, y in zip(range(1, 33), want, strict=True)]
    with pytest.raises(ValueError, match="prefix_length: must be at least 2, got 1"):
        LengthGeneralization(prefix_length=1)
