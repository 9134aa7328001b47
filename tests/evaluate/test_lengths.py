"""A checkpoint is scored after training as it was during training."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import data
from data.resumable import IGNORE, Batch
from lrnn.evaluate.length_figure import length_figure
from lrnn.evaluate.lengths import evaluate_lengths
from lrnn.evaluate.scoring import score
from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]
OPTIONS = {"lengths": [40, 150], "samples": 40, "segment": 17, "device": "cpu"}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small model after 60 steps, wrong on some sequences, and its scores during training."""
    folder = tmp_path_factory.mktemp("lengths") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        callback = ("lengths=[40]", "final_lengths=[150]", "samples=40", "segment=17")
        fit(
            [
                "--config=conf/parity.yaml",
                f"--run_dir={folder}",
                "--trainer.max_steps=60",
                "--data.validation_samples=8",
                "--data.test_samples=300",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                *(f"--trainer.callbacks.{option}" for option in callback),
            ]
        )
    return folder


def test_the_scores_are_those_that_training_wrote(run, tmp_path, capsys):
    written = json.loads((run / "length_generalization.json").read_text())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tasks.json").touch()  # of another command
    evaluate_lengths(str(run), out=str(tmp_path / "out"), **OPTIONS)
    assert capsys.readouterr().out.endswith("out: lengths.json, lengths.png\n")
    ours = json.loads((tmp_path / "out/lengths.json").read_text())
    assert {name: ours[name] for name in written if name != "validation_scaled_accuracy"} == {
        name: value for name, value in written.items() if name != "validation_scaled_accuracy"
    }
    assert 0 < ours["accuracy"] < 1 and ours["scaled_accuracy"] == pytest.approx(2 * ours["accuracy"] - 1)
    assert ours["test_samples"] == 300 and ours["task"] == "data.Parity"
    assert (tmp_path / "out/lengths.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith("events")) == [
        "checkpoints",
        "config.yaml",
        "forms_in_use.json",
        "hparams.yaml",
        "length_generalization.json",
    ]


def test_the_figure_shows_every_length():
    for lengths, trained in (([40, 64], 40), ([4, 8, 32], 16), ([40, 320], 160), ([4, 8], 40)):
        left, right = length_figure({"run": [dict.fromkeys(lengths, 1.0)]}, trained).axes[0].get_xlim()
        assert left < min(*lengths, trained) and right > max(*lengths, trained)


def test_another_task_seed_or_test_set_can_be_scored(run, capsys):
    def accuracy(**options):
        return evaluate_lengths(f"{run}/checkpoints/last.ckpt", **(OPTIONS | options))["accuracy"]

    assert accuracy(task="data.Parity", task_options={"test_samples": 200}) == accuracy(test_samples=200)
    assert accuracy(evaluation_seed=1) == accuracy(task_options={"evaluation_seed": 1}) != accuracy()
    assert accuracy(test_lengths=(3, 5)) != accuracy()
    assert accuracy(task="data.EvenPairs", test_samples=200) != accuracy()
    assert "test set, 40-256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "nothing.ckpt"}, "checkpoint: there is no nothing.ckpt"),
        ({"checkpoint": "conf"}, "checkpoint: conf is neither a run's folder nor a whole checkpoint"),
        ({"task": "data.ModularArithmeticBrackets"}, "task: data.ModularArithmeticBrackets has 12 tokens, the model 3"),
        ({"task": "data.Nothing"}, "task: data.Nothing can't be built as a LightningDataModule (module 'data' has no"),
        ({"task_options": {"colour": 1}}, "task: data.Parity can't be built as a LightningDataModule (Option 'colour'"),
        ({"evaluation_seed": -1}, "evaluation_seed: must lie in [0, 1048576), got -1"),
        ({"task": "lightning.LightningDataModule"}, "can't be scored by length, it has no chance, evaluation_batches"),
        ({"lengths": [1]}, "lengths: Parity needs at least 2, got 1"),
        ({"test_lengths": (50, 40)}, "test_lengths: must be [shortest, longest], got [50, 40]"),
        ({"samples": 0}, "samples: must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line(options, message, run):
    with pytest.raises(ConfigError) as error:
        evaluate_lengths(**({"checkpoint": f"{run}/checkpoints/last.ckpt"} | OPTIONS | options))
    assert message in str(error.value) and "\n" not in str(error.value)


class TwoLabels(data.Parity):
    """Parity of the first bit and of all bits."""

    def sample(self, seed, index, length, longest, training):
        inputs, labels = super().sample(seed, index, length, longest, training)
        first = torch.arange(inputs.shape[1]) == 0
        return Batch(inputs, torch.where(first, inputs, labels))


class Repeats(nn.Module):
    """Answers with the token that it reads: right on the first label of each sequence."""

    def forward(self, tokens, state=None):
        return nn.functional.one_hot(tokens, 3), None


def test_a_sequence_is_right_if_all_its_labels_are():
    task = TwoLabels()
    batches = list(task.evaluation_batches(9, 30, 500))
    right = [
        b.inputs[i][b.labels[i] != IGNORE] == b.labels[i][b.labels[i] != IGNORE]
        for b in batches
        for i in range(len(b.labels))
    ]
    scores = score(Repeats(), task, 9, 30, 500, segment=4)
    assert scores.accuracy == pytest.approx(float(torch.cat(right).float().mean()))
    assert scores.sequence_accuracy == pytest.approx(sum(bool(r.all()) for r in right) / 500)
    assert scores.sequence_accuracy < scores.accuracy
    shares = [score(Repeats(), task, 9, 30, 5000, rank=rank, ranks=2).accuracy for rank in (0, 1)]
    assert shares[0] != shares[1]  # without a process group, each has the scores of its own share


def test_ranks_share_the_sequences_and_call_the_model_equally_often():
    class Counts(Repeats):
        calls = 0

        def forward(self, tokens, state=None):
            self.calls += 1
            return super().forward(tokens, state)

    for samples in (1, 7, 200):
        models = [Counts() for _ in range(3)]
        shares = [score(m, TwoLabels(), 9, 30, samples, segment=8, rank=r, ranks=3) for r, m in enumerate(models)]
        assert len({model.calls for model in models}) == 1
        sizes = [len(range(rank, samples, 3)) for rank in range(3)]
        right = sum(size * share.accuracy for size, share in zip(sizes, shares, strict=True) if size)
        assert right / samples == pytest.approx(score(Repeats(), TwoLabels(), 9, 30, samples).accuracy)
