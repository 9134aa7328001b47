import json
import math
from itertools import pairwise
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from callbacks import CosineWarmup, LengthGeneralization, StopOnNonFinite, TrainingDivergedError
from data import Parity
from lrnn.evaluate.metrics import ScaledAccuracy


def test_cosine_warmup_against_its_formula():
    schedule = CosineWarmup(warmup=0.1, min_lr=1e-6)
    rates = [schedule.rate(1e-3, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and rates[99] == pytest.approx(1e-3) == max(rates)
    assert rates[550] == pytest.approx((1e-3 + 1e-6) / 2)  # the middle of the cosine
    assert schedule.rate(1e-3, 1000, 1000) == pytest.approx(1e-6)
    assert all(a > b for a, b in pairwise(rates[100:]))
    assert CosineWarmup(warmup=250).rate(1.0, 124, 1000) == pytest.approx(0.5)  # in steps
    assert CosineWarmup(warmup=0).rate(1.0, 0, 1000) == 1.0


def test_cosine_warmup_sets_the_optimizer_and_survives_its_checkpoint():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=1e-2)
    trainer = SimpleNamespace(estimated_stepping_batches=100, optimizers=[optimizer], global_step=0, logger=None)
    CosineWarmup().on_fit_start(trainer, None)
    for step in (0, 55, 99):
        trainer.global_step = step
        CosineWarmup().on_train_batch_start(trainer, None)
        optimizer.load_state_dict(optimizer.state_dict())  # as a resumed run does
        assert optimizer.param_groups[0]["lr"] == CosineWarmup().rate(1e-2, step, 100)


def test_scaled_accuracy():
    metric = ScaledAccuracy(chance=0.2)
    logits = torch.eye(5)[torch.tensor([[0, 1, 2, 3], [4, 0, 1, 2]])]
    metric.update(logits, torch.tensor([[0, 1, 0, -100], [4, -100, -100, 2]]))  # 4 of 5 right
    metric.update(logits[:1], torch.tensor([[-100, -100, -100, 3]]))  # and 1 of 1
    assert metric.compute().item() == pytest.approx((5 / 6 - 0.2) / 0.8)


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

    metric = ScaledAccuracy(chance=0.5)  # of other sequences of the same lengths, to select by
    for batch in task.evaluation_batches(40, 256, 300, validation=True):
        metric.update(CountsOnes(memory=100)(batch.inputs)[0], batch.labels)
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
    with pytest.raises(MisconfigurationException, match="selection_samples: must be 0 on more than one device, got 9"):
        LengthGeneralization(selection_samples=9).setup(SimpleNamespace(world_size=2), None, "fit")
    with pytest.raises(ValueError, match="selection_samples: must be at least 0, got -1"):
        LengthGeneralization(selection_samples=-1)


def test_the_weights_of_the_best_validation_are_kept_and_scored(tmp_path):
    def train(steps, samples=500, **options):
        callback = LengthGeneralization(lengths=(40, 150), final_lengths=(), samples=400, selection_samples=samples)
        trainer = L.Trainer(
            accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False, max_steps=steps,
            val_check_interval=1, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[callback],
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
    assert "best_checkpoint" not in train(3, samples=0)


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


def test_non_finite_losses_are_counted_and_stop_the_run():
    callback = StopOnNonFinite(every_n_steps=4)
    for step, loss in enumerate([1.0, math.nan, math.inf], 1):
        trainer = SimpleNamespace(global_step=step, max_steps=100)
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, step - 1)
    with pytest.raises(TrainingDivergedError, match="not finite in 2 of the last 4 batches, up to step 4"):
        trainer = SimpleNamespace(global_step=4, max_steps=100)
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 3)
