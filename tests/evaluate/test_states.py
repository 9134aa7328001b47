"""Drift of states, against what is known of states made by hand and of an exact model."""

import json
from functools import partial

import pytest
import torch
import yaml

from data import GroupWordProblem
from lrnn.evaluate.reflections import Reflections, by_token, reflections_of, summarize
from lrnn.evaluate.spread import drift, growth_exponent, reference_means, spread_and_separation
from lrnn.evaluate.states import _exponent, evaluate_states, recurrent_states
from lrnn.evaluate.states_report import StatesAtLength
from lrnn.models import DeltaNet, DeltaProduct, Mamba, TokenMatrices, Transformer
from lrnn.runtime.errors import ConfigError


def test_spread_and_separation_are_those_of_the_distribution_with_two_states_a_label():
    labels = torch.arange(500).repeat(2)
    means = 3 * torch.randn(500, 40)
    R, M = spread_and_separation(means[labels] + 2 * torch.randn(1000, 40), labels)
    assert pytest.approx(2 * 40**0.5, rel=0.03) == R and pytest.approx(3 * 40**0.5, rel=0.03) == M
    R, M = spread_and_separation(means[labels], labels)
    assert R == 0 and pytest.approx(float((means - means.mean(0)).square().sum(1).mean().sqrt()), rel=0.01) == M
    assert all(value != value for value in spread_and_separation(means, torch.arange(500)))  # one state a label


def test_drift_is_told_apart_along_and_across_the_directions_of_the_labels():
    axes = torch.eye(6)
    states = axes[[0, 0, 1, 1, 3, 3]]  # of labels 0, 2 and 3
    means = reference_means(states, torch.tensor([0, 0, 2, 2, 3, 3]))
    assert len(means.directions) == 2 and means.separation == pytest.approx(1)  # 3 means 2^0.5 apart, less 1 of 3 free
    moved = axes[[0, 1, 3, 1]] + 0.3 * axes[5]
    moved[:, 0] += 0.4
    along, across = drift(moved, torch.tensor([0, 2, 3, 1]), means)  # label 1 has no mean state, 4 would be new
    in_plane = torch.tensor([2, -1, -1]) / 3 * 0.4
    assert along == pytest.approx(float(in_plane.norm())) and along**2 + across**2 == pytest.approx(0.4**2 + 0.3**2)
    assert drift(moved, torch.tensor([0, 2, 3, 4]), means) == pytest.approx((along, across))
    moved[2, 0] = torch.nan  # a state that is no number is no exact one
    assert all(value != value for value in drift(moved, torch.tensor([0, 2, 3, 1]), means))


def test_growth_exponents():
    lengths = [32, 64, 500]
    assert growth_exponent(lengths, [3e-6 * n**0.5 for n in lengths]) == pytest.approx(0.5)
    assert growth_exponent([32, 64], [0.0, 1.0]) is None


def test_the_drift_grows_from_the_training_length_on_until_labels_are_mistaken():
    drifts = {4: 0.2, 8: 0.01, 32: 0.02, 128: 0.04, 512: 0.5}
    curve = [StatesAtLength(length, 1.0, drift, 0.0, 0.0, 1.0) for length, drift in drifts.items()]
    assert _exponent(curve, trained=8) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        (DeltaNet, {"conv_size": 4, "eigenvalue_range": (0, 1)}),
        (DeltaProduct, {"reflections": 3, "forget_gate": True, "conv_size": 0}),
    ],
)
def test_transitions_are_what_tells_two_states_apart(architecture, options):
    """One token takes the difference of two states D to A D."""
    model = architecture(vocab_size=5, width=16, layers=2, heads=2, **options).double().eval()
    tokens = torch.randint(5, (3, 9))
    layers = reflections_of(model, tokens)
    assert [layer.block for layer in layers] == [0, 1]
    assert torch.equal(layers[0].tokens, tokens[:, 1:].flatten())
    A = layers[0].transitions().unflatten(0, (3, 8))
    _, before = model(tokens[:, :5])
    differences = []
    for change in (0.0, 1.0):
        (conv, S), channel = before[0]
        _, after = model(tokens[:, 5:6], [((conv, S + change * torch.arange(64.0).view(8, 8)), channel), before[1]])
        differences.append(after[0][0][1])
    torch.testing.assert_close(differences[1] - differences[0], A[:, 4] @ torch.arange(64.0).view(8, 8).double())


def test_summary_of_exact_reflections_and_of_a_gate_that_forgets():
    """Head 0 swaps axes 0 and 1 exactly; head 1 forgets half of axis 0."""
    model = DeltaNet(vocab_size=4, width=8, layers=1, heads=2, conv_size=0)
    layer = reflections_of(model, torch.randint(4, (2, 6)))[0]
    k = torch.tensor([[1.0, -1, 0, 0], [1.0, 0, 0, 0]]).double()
    k = k / k.norm(dim=1, keepdim=True)
    layer.k[:] = k
    layer.beta[:, 0, 0], layer.beta[:, 0, 1] = 2 - 1e-9, 0.5
    means = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    means[:, 0, :2, 0] = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    means[:, 1, 0, 3] = torch.tensor([1.0, 0, 0])
    swap, forget = summarize(layer, means)
    assert (swap.directions, forget.directions) == (2, 1)
    assert swap.share == pytest.approx(2 / 3) and swap.worst < 2e-9 and forget.contraction == pytest.approx(0.5)
    assert swap.near_largest == 1 and swap.from_largest == pytest.approx(1e-9) and swap.from_0 is None
    assert forget.near_0 == forget.near_largest == 0 and forget.cosine is None
    assert by_token(layer)[int(layer.tokens[0])]["beta"][0] == pytest.approx([2, 0.5])


def test_the_angle_of_keys_is_that_of_the_places_where_both_reflect():
    k = torch.tensor([[1, 0], [0.5, 0.75**0.5]]).double()[:, None].repeat(4, 1, 1, 1)  # 60 degrees, one head
    beta = torch.tensor([0, 0, 2, 2]).double().view(4, 1, 1).repeat(1, 2, 1)
    layer = Reflections(0, torch.tensor([7, 7, 7, 7]), beta, k, torch.ones(4, 1), largest=2)
    assert by_token(layer)[7]["cosine"] == [[pytest.approx(0.5)]]


def save_run(model, folder, data="data.GroupWordProblem", **options):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"class_path": data, "init_args": options}}))
    saved = {"model": model.class_path, "hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    torch.save(saved, folder / "checkpoints/last.ckpt")
    return str(folder)


measure = partial(evaluate_states, device="cpu", samples=40, samples_per_label=4, segment=7)


def test_an_exact_model_does_not_drift(tmp_path, capsys):
    task = GroupWordProblem("S4")
    model = TokenMatrices(matrix_size=4, vocab_size=task.vocab_size)
    permutations = torch.eye(4)[task.group.permutations].mT
    with torch.no_grad():
        model.backbone.embedding.weight.view(-1, 4, 4)[:24] = permutations
        model.backbone.embedding.weight.view(-1, 4, 4)[24:] = torch.eye(4)
        model.backbone.head.weight.zero_()[:24] = permutations.flatten(1)
    records = measure(save_run(model, tmp_path / "run", group="S4", train_lengths=[2, 8]), lengths=[8, 100])
    record = records["run"]
    for precision in ("64-true", "32-true", "bf16-mixed"):
        for one in record["curves"][precision]:
            assert one["right"] == 1 and one["separation"] == pytest.approx(1, rel=0.3)
            assert max(one["drift"], one["drift_across"], one["spread"]) < 1e-6
    assert record["trained_length"] == 8 and not record["heads"]
    written = json.loads((tmp_path / "run/states/states.json").read_text())
    assert written["run"]["curves"] == record["curves"]
    assert (tmp_path / "run/states/states.png").read_bytes().startswith(b"\x89PNG")
    assert "labels right" in capsys.readouterr().out


def test_heads_and_tokens_of_a_model_with_reflections(tmp_path, capsys):
    model = DeltaProduct(vocab_size=9, width=16, layers=2, heads=2, reflections=2, beta_bias=True)
    runs = [save_run(model, tmp_path / name / "seed0", group="S3") for name in "ab"]
    records = measure(runs, lengths=[5], out=str(tmp_path / "out"))
    assert {**records["a/seed0"], "checkpoint": ""} == {**records["b/seed0"], "checkpoint": ""}
    record = records["a/seed0"]
    assert [(head["block"], head["head"]) for head in record["heads"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sum(head["share"] for head in record["heads"]) == pytest.approx(2)  # of each layer's
    assert set(record["tokens"]) == {"0", "1"} and set(record["tokens"]["0"]) == set(range(6))
    assert "beta ~ 0" in capsys.readouterr().out


def test_a_model_that_learned_nothing_has_no_unit_of_distance(tmp_path, capsys):
    torch.manual_seed(0)
    run = save_run(DeltaNet(vocab_size=5, width=16, layers=1, heads=2), tmp_path / "run", "data.Parity")
    record = measure(run, lengths=[40])["run"]
    assert record["separation"] == 0 and set(record["growth_exponent"].values()) == {None}
    one = record["curves"]["32-true"][0]
    assert 0 < one["right"] < 1 and all(one[name] != one[name] for name in ("drift", "spread", "separation"))
    assert "nan if there is none" in capsys.readouterr().out


def test_states_leave_out_those_of_convolutions():
    model = Mamba(vocab_size=5, width=8, layers=2, state_size=3)
    _, state = model(torch.zeros(4, 6, dtype=torch.long))
    assert [tuple(x.shape) for x in recurrent_states(model, state)] == [(4, 48), (4, 48)]


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="run_dir: nowhere is not the folder of a run"):
        measure("nowhere")
    run = save_run(Transformer(vocab_size=9, width=8, layers=1, heads=2), tmp_path / "attention", group="S3")
    with pytest.raises(ConfigError, match=r"checkpoint: lrnn\.models\.Transformer has attention"):
        measure(run)
    run = save_run(Mamba(vocab_size=9, width=8, layers=1), tmp_path / "mamba", group="S3")
    with pytest.raises(ConfigError, match="lengths: GroupWordProblem needs at least 1, got 0"):
        measure(run, lengths=[0])
    with pytest.raises(ConfigError, match="samples: must be at least 1, got 0"):
        measure(run, samples=0)
    with pytest.raises(ConfigError, match="lengths, precisions: must name at least one each"):
        measure(run, lengths=[])
    with pytest.raises(ConfigError, match="run_dir: must name different folders, at least one"):
        measure([run, run], out="out")
    with pytest.raises(ConfigError, match="run_dir: must be one folder, unless --out is set"):
        measure([run, "other"])


@pytest.mark.gpu
def test_a_gpu_measures_what_a_cpu_measures(tmp_path):
    model = DeltaProduct(vocab_size=9, width=16, layers=1, heads=2, reflections=2, beta_bias=True)
    run = save_run(model, tmp_path / "run", group="S3", train_lengths=[2, 8])
    ours, theirs = (
        evaluate_states(run, lengths=[8, 40], samples=40, samples_per_label=4, segment=16, device=device)["run"]
        for device in ("cuda", "cpu")
    )
    for precision, rel in (("64-true", 1e-6), ("32-true", 1e-3)):
        for one, other in zip(ours["curves"][precision], theirs["curves"][precision], strict=True):
            assert one == pytest.approx(other, rel=rel)
    for one, other in zip(ours["heads"], theirs["heads"], strict=True):
        assert one["contraction"] == pytest.approx(other["contraction"], rel=1e-6)
