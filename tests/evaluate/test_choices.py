"""Likelihoods of choices against one forward pass for each, and the commands and the callback that use them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from data.state_tracking.documents import FAMILIES, make_document
from lrnn.evaluate import choices as module
from lrnn.evaluate.choices import accuracy_record, score_choices
from lrnn.evaluate.state_tracking import evaluate_state_tracking
from lrnn.fit import fit
from lrnn.models import AttentionMixer, DeltaNet, DeltaNetMixer, Hybrid, Mamba
from lrnn.runtime.errors import ConfigError

SIZE = {"width": 16, "vocab_size": 20, "init_std": 0.5}
MODELS = {
    "DeltaNet": lambda: DeltaNet(conv_size=4, **SIZE),
    "Mamba": lambda: Mamba(**SIZE),
    "hybrid": lambda: Hybrid({"delta": DeltaNetMixer, "attention": AttentionMixer}, ["delta", "attention"], **SIZE),
}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def question(prefix, choices, answer=0, family="a", length=1):
    return SimpleNamespace(family=family, length=length, prefix=prefix, choices=choices, answer=answer)


QUESTIONS = [
    question([1, 2, 3], [[4], [5], [6]]),
    question([1, 2, 3, 9, 9, 8, 1, 1, 7, 5, 4], [[4, 4], [4, 5], [6, 1, 2]]),
    question([7], [[1, 2, 3, 4, 5, 6], [2]]),
    question([1, 2, 3], [[4], [5], [6]]),
]


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("segment", [1024, 3])
def test_likelihoods_against_one_pass_for_each_choice(name, segment, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 20)  # so that there are several batches
    model = MODELS[name]().double().train()
    got = score_choices(model, QUESTIONS, segment=segment)
    assert model.training
    model.eval()
    for one, scores in zip(QUESTIONS, got, strict=True):
        for choice, value in zip(one.choices, scores, strict=True):
            p = torch.log_softmax(model(torch.tensor([[*one.prefix, *choice]]))[0][0].float(), -1)
            at = len(one.prefix) - 1
            wanted = sum(float(p[at + i, token]) for i, token in enumerate(choice))
            assert value == pytest.approx(wanted, abs=1e-5)


def test_accuracies_by_family_and_length():
    pairs = [("a", 1, 0, [0, -1]), ("a", 1, 1, [0, -1]), ("a", 2, 1, [-3, -1]), ("b", 2, 2, [-3, -9, -1, -4])]
    questions = [question([1], [[0]] * len(s), answer, family, length) for family, length, answer, s in pairs]
    record = accuracy_record(questions, [s for *_, s in pairs])
    assert record["families"] == {
        "a": {"chance": 0.5, "accuracy_at": {1: 0.5, 2: 1.0}},
        "b": {"chance": 0.25, "accuracy_at": {2: 1.0}},
    }
    assert record["accuracy"] == 0.875 and record["chance"] == 0.375 and record["samples"] == 2


TINY = [
    *("--config=conf/state_tracking_text.yaml", "--trainer.accelerator=cpu", "--trainer.precision=32-true"),
    *("--model.width=16", "--model.layers=1", "--model.heads=2", "--model.mlp_width=16", "--trainer.max_steps=1"),
    *("--data.batch_size=2", "--data.context=32", "--data.num_workers=0", "--data.validation_samples=6"),
    *("--data.test_samples=6", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]


def test_a_run_writes_its_accuracies_and_the_command_finds_the_same(tmp_path, capsys):
    lengths = {"--trainer.callbacks.lengths": "[2]", "--trainer.callbacks.final_lengths": "[3]"}
    options = [f"{key}={value}" for key, value in lengths.items()] + ["--trainer.callbacks.samples=6"]
    yaml_file = tmp_path / "callbacks.yaml"
    callback = {"class_path": "callbacks.ChoiceAccuracy", "init_args": {"lengths": [1, 5], "samples": 3}}
    last = {"class_path": "callbacks.LengthGeneralization"}
    yaml_file.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback, last]}}))
    fit([*TINY, f"--config={yaml_file}", *options, f"--run_dir={tmp_path}/run"])
    written = json.loads((tmp_path / "run/choice_accuracy.json").read_text())
    assert {*written["families"]} == {*FAMILIES} and (tmp_path / "run/length_generalization.json").is_file()

    checkpoint = f"{tmp_path}/run/checkpoints/last.ckpt"
    record = evaluate_state_tracking(checkpoint, lengths=[1, 5], samples=3, out=f"{tmp_path}/scores")
    assert json.loads(json.dumps(record["families"])) == written["families"]
    assert json.loads((tmp_path / "scores/state_tracking.json").read_text())["families"] == written["families"]
    printed = capsys.readouterr().out
    assert all(family in printed for family in FAMILIES) and "0.200" in printed

    with pytest.raises(ConfigError, match="tokenizer: data/mistral_v1 has 32000 tokens, the model 640"):
        evaluate_state_tracking(checkpoint, tokenizer="data/mistral_v1", lengths=[1], samples=1)


def test_the_tasks_of_the_harness_read_the_same_documents(tmp_path, capsys):
    assert evaluate_state_tracking(write=str(tmp_path), families=["boards", "repl"], lengths=[2, 5], samples=4) is None
    assert "4 tasks" in capsys.readouterr().out
    group = yaml.safe_load((tmp_path / "state_tracking.yaml").read_text())
    assert group["task"] == ["state_tracking_boards", "state_tracking_repl"]
    for name in group["task"]:
        family = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        assert family["task"] == [f"{name}_2", f"{name}_5"]
        for part, length in zip(family["task"], (2, 5), strict=True):
            task = yaml.safe_load((tmp_path / f"{part}.yaml").read_text())
            file = task["dataset_kwargs"]["data_files"]["test"]
            records = [json.loads(line) for line in Path(file).read_text().splitlines()]
            assert task["task"] == part and len(records) == 4
            for number, record in enumerate(records):
                document = make_document(2411, "test", name.removeprefix("state_tracking_"), length, number)
                assert record["prompt"] == document.prompt and record["choices"] == [*document.choices]
                assert record["answer"] == document.answer


def test_bad_input_is_named():
    for options, problem in (
        ({}, "checkpoint: must name a checkpoint, or --write a folder for the documents"),
        ({"write": "x", "families": ["chess"]}, r"families: must be different ones of .*, got \['chess'\]"),
        ({"write": "x", "lengths": [0]}, "lengths: must be at least 1, got 0"),
        ({"write": "x", "lengths": []}, r"lengths: must be different numbers, at least one, got \[\]"),
        ({"write": "x", "lengths": [2, 2]}, r"lengths: must be different numbers, at least one, got \[2, 2\]"),
        ({"write": "x", "samples": 0}, "samples: must be at least 1, got 0"),
        ({"write": "x", "evaluation_seed": -1}, "evaluation_seed: must lie in"),
    ):
        with pytest.raises(ConfigError, match=problem):
            evaluate_state_tracking(**options)
