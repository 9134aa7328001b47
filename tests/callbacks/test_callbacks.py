import gc
import json
import math
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from callbacks import CompileTraining, CosineWarmup, StopOnNonFinite, TrainingDivergedError
from callbacks.collect_garbage import CollectGarbage
from callbacks.stop_on_non_finite import weights_are_finite
from lrnn.fit import fit
from lrnn.models import MLSTM, DeltaNet, DeltaProduct


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
    trainer = SimpleNamespace(estimated_stepping_batches=100, optimizers=[optimizer], global_step=0, loggers=[])
    CosineWarmup().on_fit_start(trainer, None)
    for step in (0, 55, 99):
        trainer.global_step = step
        CosineWarmup().on_train_batch_start(trainer, None)
        optimizer.load_state_dict(optimizer.state_dict())  # as a resumed run does
        assert optimizer.param_groups[0]["lr"] == CosineWarmup().rate(1e-2, step, 100)


def test_non_finite_losses_of_any_rank_are_counted_and_stop_the_run():
    callback = StopOnNonFinite(every_n_steps=4)
    strategy = SimpleNamespace(reduce=lambda bad, reduce_op: bad + 3)  # of the other rank
    for step, loss in enumerate([1.0, math.nan, math.inf], 1):
        trainer = SimpleNamespace(global_step=step, max_steps=100)
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, step - 1)
    with pytest.raises(TrainingDivergedError, match="not finite in 5 of the last 8 batches, up to step 4"):
        trainer = SimpleNamespace(global_step=4, max_steps=100, strategy=strategy, world_size=2)
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 3)


def test_garbage_is_collected_again_after_the_first_step():
    callback = CollectGarbage()
    trainer = SimpleNamespace(callbacks=[callback])
    gc.disable()
    try:
        callback.on_train_batch_end(trainer)
        assert gc.isenabled()
        assert not trainer.callbacks
    finally:
        gc.enable()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_weight_that_is_not_finite_is_found_and_a_large_one_is_not(value):
    model = nn.Linear(300, 300)
    nn.init.constant_(model.weight, 3e38)  # whose norm overflows
    assert weights_are_finite(model)
    model.weight.data[7, 200] = value
    assert not weights_are_finite(model)


def train(run_dir, *options, more=()):
    options = (*options, "enable_progress_bar=false", "enable_model_summary=false")
    trainer = [f"--trainer.{option}" for option in options]
    fit(["--config=conf/parity.yaml", f"--run_dir={run_dir}", "--data.batch_size=4", *trainer, *more])


def steps_logged(run_dir):
    events = EventAccumulator(str(run_dir)).Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_a_run_that_ended_with_a_validation_goes_on_with_the_next_step(tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    trainer = ("val_check_interval=2", "log_every_n_steps=2", "callbacks=[]")
    for steps, more in ((4, []), (8, ["--resume=true"])):
        train(tmp_path / "run", *trainer, f"max_steps={steps}", more=[*more, "--data.validation_samples=4"])
    steps = steps_logged(tmp_path / "run")
    assert steps["train/loss"] == steps["train/learning_rate"] == steps["val/loss"] == [1, 3, 5, 7]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_a_step_of_several_batches_is_logged_once_also_after_a_resume(tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    trainer = ("accumulate_grad_batches=2", "log_every_n_steps=1", "limit_val_batches=0")
    trainer += ("callbacks=callbacks.Spectrum", "callbacks.every=2")
    for steps, more in ((2, []), (4, ["--resume=true"])):
        train(tmp_path / "run", *trainer, f"max_steps={steps}", more=more)
    steps = steps_logged(tmp_path / "run")
    assert steps["train/learning_rate"] == steps["train/loss"] == [0, 1, 2, 3]
    assert steps["eigenvalues/least"] == [2, 4]


def test_every_logger_gets_every_value(tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    names = ("BestWeights", "LengthGeneralization", "Spectrum", "Throughput")
    callbacks = [{"class_path": f"callbacks.{name}"} for name in names]
    callbacks[0]["init_args"] = {"samples": 2}
    callbacks[1]["init_args"] = {"samples": 2, "lengths": [8], "final_lengths": [9], "prefix_length": 8}
    callbacks[2]["init_args"] = {"every": 2}
    loggers = [
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": f"{tmp_path}/{name}"}}
        for name in ("first", "second")
    ]
    trainer = (f"callbacks={json.dumps(callbacks)}", f"logger={json.dumps(loggers)}", "max_steps=4")
    trainer += ("val_check_interval=2", "log_every_n_steps=1")
    train(tmp_path / "run", *trainer, more=["--data.validation_samples=4", "--data.test_samples=4"])
    (first, second) = (file.read_text().splitlines() for file in sorted(tmp_path.glob("*/**/metrics.csv")))
    tags = ("length/8", "length/test", "length/selection", "label_accuracy/6", "train/learning_rate")
    assert {*tags} <= {*first[0].split(",")} and first == second


class ProgressShown(L.Callback):
    """Records what the progress bar shows after each step, as (batches done, batches in all)."""

    def __init__(self):
        self.shown = []

    def on_train_batch_end(self, trainer, *_):
        (task,) = trainer.progress_bar_callback.progress.tasks
        self.shown.append((task.completed, task.total))


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:You're resuming")  # Lightning's
@pytest.mark.parametrize(("limit", "ends"), [("null", [(4, 4), (12, 12)]), (8, [(4, 4), (4, 4)])])
def test_the_progress_bar_ends_full_also_after_a_resume(limit, ends, tmp_path, monkeypatch, pytestconfig):
    """A step has two batches. An epoch has no end, or ends after 8 batches."""
    monkeypatch.chdir(pytestconfig.rootpath)
    options = ["--config=conf/parity.yaml", f"--run_dir={tmp_path}/run", "--data.batch_size=4"]
    trainer = [
        "limit_val_batches=0",
        "accumulate_grad_batches=2",
        "log_every_n_steps=1",
        "callbacks=[]",
        f"limit_train_batches={limit}",
    ]
    options += [f"--trainer.{option}" for option in trainer]
    for end, steps, resume in zip(ends, (2, 6), ("false", "true"), strict=True):
        callback = ProgressShown()
        fit([*options, f"--trainer.max_steps={steps}", f"--resume={resume}"], [callback])
        assert callback.shown[-1] == end, callback.shown
        assert all(completed <= total for completed, total in callback.shown)


@pytest.mark.parametrize(
    ("devices", "batches", "scaler", "problem"),
    [
        (2, 1, None, "needs one device and trainer.accumulate_grad_batches 1, got 2 and 1"),
        (1, 2, None, "needs one device and trainer.accumulate_grad_batches 1, got 1 and 2"),
        (1, 1, object(), "must be false with trainer.precision 16-mixed"),
    ],
)
def test_what_a_recorded_step_cannot_do_is_refused(devices, batches, scaler, problem):
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda")),
        precision_plugin=SimpleNamespace(scaler=scaler),
        world_size=devices,
        accumulate_grad_batches=batches,
    )
    with pytest.raises(MisconfigurationException, match=f"compile.cuda_graphs: {problem}"):
        CompileTraining(cuda_graphs=True).setup(trainer, nn.Linear(1, 1), "fit")


@pytest.mark.parametrize(
    "model",
    [
        DeltaNet(width=16, heads=2, form="chunked"),
        DeltaProduct(width=16, heads=2, forget_gate=True, form="chunked"),
        MLSTM(width=16, heads=2, form="chunked"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_compiled_gradient_is_that_of_autocast_around_the_forward_pass(model, monkeypatch):
    """A compiler traces the backward pass early. It must not be under autocast, or float32 states lose 16 bits."""
    tokens = torch.randint(3, (2, 70))

    def gradient():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(tokens, tokens)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    plain = gradient()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # no C++ compiler
    on_a_gpu = SimpleNamespace(root_device=torch.device("cuda"))
    with torch._functorch.config.patch(backward_pass_autocast="same_as_forward"):  # PyTorch's default
        CompileTraining().setup(SimpleNamespace(strategy=on_a_gpu, world_size=1), model, "fit")
        assert (gradient() - plain).norm() < 1e-4 * plain.norm()
