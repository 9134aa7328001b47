"""The state consistency term against its formula in float64, its phases, and runs that train with it."""

import json
import math
import os
import subprocess
import sys

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from data import GroupWordProblem
from lrnn.fit import fit
from lrnn.models import SLSTM, DeltaNet, DeltaProduct, Diagonal, FullMatrix, Mamba
from lrnn.models.state_consistency import CHECK, StateConsistency
from lrnn.runtime.errors import ConfigError

SMALL = {"vocab_size": 9, "width": 16, "layers": 2}
MODELS = (
    (DeltaNet, {"heads": 2, "mlp_width": 24}),
    (DeltaProduct, {"heads": 2, "reflections": 2, "conv_size": 0, "qk_activation": "identity", "beta_bias": True}),
    (Mamba, {"state_size": 4}),
    (Diagonal, {}),
    (FullMatrix, {}),
)
each_model = pytest.mark.parametrize(("architecture", "options"), MODELS, ids=lambda x: getattr(x, "__name__", ""))


def draw(samples=range(48), **options):
    task = GroupWordProblem("S3", train_lengths=(6, 6), batch_size=len(samples), **options)
    return task.training_batch(samples, torch.device("cpu"))


def make(architecture, options, weight, strength=0.5):
    torch.manual_seed(0)
    model = architecture(**SMALL, **options, state_consistency=strength, consistency_rate=3).double()
    torch.nn.init.normal_(model.consistency.table)
    model.consistency.weight.fill_(weight)
    return model


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)


@each_model
@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("one_label", [False, True])
def test_the_term_against_its_formula(architecture, options, weight, one_label):
    model = make(architecture, options, weight)
    inputs, labels = draw(training_labels="last" if one_label else "every_token")
    model.one_label = one_label
    logits, state = model(inputs)
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    S, y, C = torch.cat([mixer[-1].flatten(1) for mixer, _ in state], 1), labels[:, -1], 3 * model.consistency.table
    if weight:
        occurring = C[y.unique()]  # tokens that are no label do not count
        separation = (occurring - occurring.mean(0)).square().sum(1).mean()
        ratio = (S - C[y]).square().sum(1).mean() / separation
        heads = S.chunk(2 * options.get("heads", 1), 1), C.chunk(2 * options.get("heads", 1), 1)
        drifts = [
            (S_p - C_p[y]).square().sum(1).mean() / (C_p[y.unique()].square().sum(1).mean() + 1e-6 * separation)
            for S_p, C_p in zip(*heads, strict=True)
        ]
        term = weight * (ratio + torch.stack(drifts).mean())
    else:
        ratio = term = (S.detach() - C[y]).square().sum(1).mean()
    loss = model.loss(inputs, labels)
    torch.testing.assert_close(loss, cross_entropy)
    logged = {"state_consistency": term.detach(), "state_ratio": ratio.detach()}
    torch.testing.assert_close(model.auxiliary_terms, logged)
    want, got = gradients(cross_entropy + term, model), gradients(loss, model)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-9)
    reached = [not torch.allclose(a, b) for a, b in zip(got, gradients(cross_entropy, model), strict=True)]
    assert any(reached[:-1]) == bool(weight) and reached[-1]  # the table is the last parameter


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_gradient_does_not_depend_on_the_split_of_a_batch_or_on_the_loss_scale(weight):
    def gradient(parts, scale):
        model = make(*MODELS[1], weight)
        model.consistency.seen[:6] = True
        inputs, labels = draw()
        for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
            (scale * (model.loss(x, y) / parts)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()]) / scale

    whole = gradient(1, 1.0)
    for parts, scale in ((4, 1.0), (12, 1.0), (4, 65_536.0)):
        torch.testing.assert_close(gradient(parts, scale), whole)


def test_a_head_that_no_token_writes_to_is_exact():
    """Its states, and those of the table, are zero. The term and its gradient are those of the other head."""
    states, labels = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 1, 2])
    terms, gradients = [], []
    for sizes, padding in (([4], 0), ([8], 4)):
        consistency = StateConsistency(3, sizes, [1 + bool(padding)], 1.0, 0.01, 0.3)
        consistency.weight.fill_(1.0)
        with torch.no_grad():
            consistency.table[:, :4] = torch.arange(12.0).view(3, 4)
        S = F.pad(states, (0, padding)).requires_grad_()
        term, ratio = consistency([S], labels, torch.tensor(1.0))
        terms.append((term - ratio) * sizes[0] / 4)  # the mean over the heads
        gradients.append(torch.autograd.grad(term, S)[0])
    torch.testing.assert_close(terms[1], terms[0])
    assert gradients[1].isfinite().all() and not gradients[1][:, 4:].any()


def test_sequences_without_a_last_label_do_not_count():
    states, labels = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, -100, -100])
    consistency = StateConsistency(3, [4], [2], 1.0, 0.01, 0.3)
    for weight in (0.0, 1.0):
        torch.nn.init.normal_(consistency.table)
        consistency.weight.fill_(weight)
        some, all_of_them = (consistency([states[:n]], labels[:n], torch.tensor(1.0)) for n in (6, 8))
        torch.testing.assert_close(all_of_them, some)
    nothing, _ = consistency([states[6:]], labels[6:], torch.tensor(1.0))
    assert nothing == 0


def test_the_second_phase_begins_at_a_small_cross_entropy_of_the_longest_sequences():
    consistency = StateConsistency(6, [4], [1], strength=0.5, threshold=0.01, ramp=40)
    assert not consistency.wants_check(0) and not consistency.wants_check(CHECK + 1)
    assert consistency.wants_check(CHECK)
    consistency.cross_entropy.fill_(0.001)
    consistency.check(CHECK, longest=False)
    assert consistency.cross_entropy == pytest.approx(math.log(6)) and consistency.began == -1
    assert not consistency.wants_check(CHECK)  # once a step, however many micro-batches it has
    consistency.check(2 * CHECK, longest=True)
    consistency.set_weight(2 * CHECK, 1000)
    assert consistency.weight == 0 and consistency.began == -1
    consistency.cross_entropy.fill_(0.001)
    consistency.check(3 * CHECK, longest=True)
    assert consistency.began == 3 * CHECK and not consistency.wants_check(4 * CHECK)
    for after, share in ((0, 1 / 40), (19, 0.5), (39, 1.0), (500, 1.0)):
        consistency.set_weight(3 * CHECK + after, 1000)
        assert consistency.weight == pytest.approx(0.5 * share)

    resumed = StateConsistency(6, [4], [1], strength=0.5, threshold=0.01, ramp=0.04)  # of 1,000 steps
    resumed.load_state_dict(consistency.state_dict())
    resumed.begin_training(3 * CHECK + 19, 1)
    resumed.set_weight(3 * CHECK + 19, 1000)
    assert resumed.weight == pytest.approx(0.25)
    resumed.begin_training(0, 1)  # another training of the same model
    resumed.set_weight(0, 1000)
    assert resumed.weight == 0 and resumed.wants_check(CHECK)
    assert resumed.cross_entropy == pytest.approx(math.log(6))


def test_the_running_mean_looks_back_over_as_many_steps_for_any_number_of_micro_batches():
    """The cross-entropy of a model that has learned falls to 0: the mean falls to 1 / e in 50 steps."""
    states, labels = [torch.zeros(4, 4)], torch.tensor([0, 1, 2, 0])
    for micro_batches in (1, 2, 16):
        consistency = StateConsistency(3, [4], [1], strength=0.5, threshold=0.01, ramp=40)
        consistency.begin_training(0, micro_batches)
        for _ in range(50 * micro_batches):
            consistency(states, labels, torch.tensor(0.0))
        assert consistency.cross_entropy == pytest.approx(math.log(3) / math.e, rel=0.02)


def test_models_without_it_return_no_states_and_hold_no_table():
    model = DeltaNet(**SMALL, heads=2)
    *_, states = model.backbone.residual_stream(draw().inputs)
    assert states == [] and not any("consistency" in name for name in model.state_dict())
    model = DeltaNet(**SMALL, heads=2, state_consistency=0.5)
    assert model.consistency.table.shape == (9, 2 * 2 * 8 * 8)
    assert any(p is model.consistency.table for p in model.decay_groups()[1])


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (lambda: DeltaNet(state_consistency=-1), "model.state_consistency: must be 0 or a positive number, got -1"),
        (lambda: DeltaNet(state_consistency=math.nan), "model.state_consistency: must be 0 or a positive number"),
        (lambda: DeltaNet(state_consistency=1, consistency_start=0), "model.consistency_start: must be above 0, got 0"),
        (lambda: DeltaNet(state_consistency=1, consistency_ramp=-1), "model.consistency_ramp: must be at least 0 and"),
        (lambda: DeltaNet(state_consistency=1, consistency_rate=0), "model.consistency_rate: must be above 0"),
        (lambda: SLSTM(state_consistency=1), "model.state_consistency: must be 0, as no mixer of this model has"),
    ],
)
def test_bad_options_are_one_line(make_model, message):
    with pytest.raises(ValueError, match=message):
        make_model()


TINY = (
    "--config=conf/groups.yaml",
    "--model.width=16",
    "--model.head_size=4",
    "--model.mlp_width=16",
    "--data.train_lengths=[6,6]",
    "--data.validation_samples=4",
    "--trainer.callbacks=[]",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)


@pytest.mark.parametrize(
    "options",
    [
        ("--data=data.ModularArithmetic", "--data.curriculum=null"),
        ("--data=data.EvenPairs", "--data.curriculum=null"),
        ("--data.train_lengths=[4,6]",),
        ("--data.curriculum=[{lengths: [2, 3], samples: 10}]",),
    ],
)
def test_tasks_whose_last_label_is_no_state_are_refused_in_one_line(options, tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    if options[0].startswith("--data="):
        options = [*options, "--data.train_lengths=[6,6]"]
        config = [f for f in TINY if not f.startswith("--data.train")]
    else:
        config = TINY
    with pytest.raises(ConfigError, match=r"^model.state_consistency: must be 0 on \w+ as it is set up") as error:
        fit([*config, *options, f"--run_dir={tmp_path}/run"])
    assert "\n" not in str(error.value)


def test_weights_in_16_bits_are_refused_in_one_line(tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    message = (
        "model.state_consistency: needs weights in float32 or float64, got bfloat16; "
        "set trainer.precision to 32-true or bf16-mixed"
    )
    with pytest.raises(ConfigError, match=f"^{message}$"):
        fit([*TINY, "--trainer.precision=bf16-true", f"--run_dir={tmp_path}/run"])


class CutOff(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_a_run_resumes_bit_for_bit_in_every_phase(tmp_path, monkeypatch, pytestconfig):
    """It is cut off in the curriculum, in the first phase, and while the strength grows."""
    monkeypatch.chdir(pytestconfig.rootpath)
    samples = 20 * 4 * 2 + 1  # the last batch of the stage has sequences of both lengths
    options = [
        *TINY,
        "--data.batch_size=4",
        f"--data.curriculum=[{{lengths: [2, 2], samples: {samples}}}]",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.max_steps=75",
        "--model.consistency_start=100",
        "--model.consistency_ramp=100",
        "--trainer.val_check_interval=1000",
        "--checkpoint_every=9",
    ]
    whole = fit([*options, f"--run_dir={tmp_path}/whole"])
    assert whole.model.consistency.began == CHECK and whole.model.consistency.weight == pytest.approx(0.5 * 25 / 100)
    resume = []
    for step in (12, 40, 60):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit([*options, f"--run_dir={tmp_path}/cut", *resume], [CutOff(step)])
        resume = ["--resume=true"]
    fit([*options, f"--run_dir={tmp_path}/cut", *resume])
    ends = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut")]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 75
    assert ends[0]["state_dict"].keys() >= {f"consistency.{name}" for name in ("table", "seen", "began", "weight")}
    for name, weight in ends[0]["state_dict"].items():
        assert torch.equal(weight, ends[1]["state_dict"][name]), name


RECORDER = """
import lightning as L
import torch


class Recorder(L.Callback):
    def __init__(self, folder: str):
        self.folder, self.states = folder, []

    def on_train_batch_end(self, trainer, module, *_):
        table = module.consistency.table.detach()
        table = table.full_tensor() if hasattr(table, "full_tensor") else table.clone()
        buffers = {name: buffer.clone() for name, buffer in module.consistency.named_buffers()}
        self.states.append({"table": table, **buffers})

    def on_train_end(self, trainer, module):
        torch.save(self.states, f"{self.folder}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_hold_the_same_phase_labels_and_table_after_every_micro_batch(strategy, tmp_path, pytestconfig):
    """Each rank sees two of the 24 labels in a micro-batch."""
    (tmp_path / "recorder.py").write_text(RECORDER)
    recorder = {"class_path": "recorder.Recorder", "init_args": {"folder": str(tmp_path)}}
    run = [option for option in TINY if not option.startswith("--trainer.callbacks")]
    run += ["--data.group=S4", "--data.curriculum=null", "--data.batch_size=2", "--model.consistency_start=3.045"]
    run += [f"--trainer.{key}" for key in ("devices=2", "accumulate_grad_batches=2", "max_steps=120")]
    run += [f"--trainer.callbacks={json.dumps([recorder])}", f"--trainer.strategy={strategy}"]
    command = [sys.executable, "-m", "lrnn.fit", *run, f"--run_dir={tmp_path}/run"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run(command, check=True, timeout=200, cwd=pytestconfig.rootpath, env=environment)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(first) == len(second) == 240
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        assert [name for name in one if not torch.equal(one[name], other[name])] == [], i
    assert first[-1]["began"] > 0 and first[-1]["weight"] > 0
