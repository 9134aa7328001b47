"""Perplexity by length: the carried state against one forward pass, texts, files, and what is refused."""

import json
import sys
from functools import partial
from pathlib import Path
from shutil import copy, copytree
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from data import FineWeb
from data.errors import DataError
from data.text.tokenizer import load_tokenizer
from lrnn.evaluate.perplexity import evaluate_perplexity
from lrnn.evaluate.perplexity_scoring import score_perplexity
from lrnn.evaluate.texts import token_sequences
from lrnn.fit import fit
from lrnn.models import DeltaNet
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_carried_state_gives_the_perplexity_of_one_forward_pass(small_model):
    model = small_model.train()
    sequences = torch.randint(50, (3, 301))
    got = score_perplexity(model, sequences, [300, 1, 100], segment=77)
    assert model.training and got.sequences == 3
    with torch.no_grad():
        logits = model.eval()(sequences[:, :-1])[0].double()
    nats = F.cross_entropy(logits.mT, sequences[:, 1:], reduction="none").double()
    for length in (1, 100, 300):
        running = nats[:, :length].mean(1).mean().exp()  # the mean over sequences of running means
        assert got.running_at[length] == pytest.approx(float(running), rel=1e-4)
    assert list(got.position_at) == [1, 100, 300]
    assert got.position_at[300] == pytest.approx(float(nats[:, 100:].mean().exp()), rel=1e-4)
    assert got.position_at[1] == pytest.approx(got.running_at[1])


def test_sequences_are_the_documents_one_after_another(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "one two"}\n{"text": ""}\n{"text": "three"}\n{"text": "four"}\n')
    tokenizer = load_tokenizer("data/mistral_v1")
    one, three, four = (ids.tolist() for ids in tokenizer.encode(["one two", "three", "four"]))
    whole = [2, *one, 2, *three, 2, *four, 2]
    got = token_sequences(str(tmp_path / "texts.jsonl"), tokenizer, [2, 3, 1000], 2)
    assert got.tolist() == [whole[:4], whole[3:7]]
    assert token_sequences(str(tmp_path / "texts.jsonl"), tokenizer, [2, 3, 1000], 1).tolist() == [whole[:4]]
    with pytest.raises(DataError, match=r"texts: .* tokens, fewer than the first length, 50;"):
        token_sequences(str(tmp_path / "texts.jsonl"), tokenizer, [50, 1000], 2)


@pytest.fixture
def run(tmp_path):
    """A run of random weights, with the tokenizer of the project."""
    model = DeltaNet(vocab_size=32000, width=16, layers=1, heads=1, tie_embeddings=True)
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    options = {"tokenizer": "data/mistral_v1", "context": 64}
    (folder / "config.yaml").write_text(json.dumps({"data": {"class_path": "data.FineWeb", "init_args": options}}))
    saved = {"model": model.class_path, "hyper_parameters": dict(model.hparams), "global_step": 7}
    torch.save({**saved, "state_dict": model.state_dict()}, folder / "checkpoints/last.ckpt")
    return folder


def test_results_are_kept_when_another_text_fails(run, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    (tmp_path / "short.txt").write_text("Short.")
    texts = [str(tmp_path / "text.txt"), str(tmp_path / "short.txt")]
    options = {"lengths": [16, 64, 10**6], "sequences": 2, "device": "cpu"}
    with pytest.raises(ConfigError, match=r"texts: .*short.txt has .* fewer than the first length"):
        evaluate_perplexity(str(run), texts, **options)
    record = json.loads((run / "evaluate/perplexity.json").read_text())
    assert record["training_context"] == 64 and record["step"] == 7
    assert list(record["results"]) == texts[:1]
    assert record["results"][texts[0]]["running_at"].keys() == {"16", "64"}
    assert (run / "evaluate/perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "evaluate").glob("events*"))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(ConfigError, match=r"texts: codeparrot .* can't be read .* give local files instead"):
        evaluate_perplexity(str(run), ["codeparrot"], **options)
    assert json.loads((run / "evaluate/perplexity.json").read_text()) == record


def test_checkpoints_that_share_a_folder_have_files_of_their_own(run, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    copy(run / "checkpoints/last.ckpt", run / "checkpoints/best.ckpt")
    copytree(run, tmp_path / "other/run")
    score = partial(evaluate_perplexity, texts=[str(tmp_path / "text.txt")], lengths=[16], device="cpu")
    last, best, other = (
        str(tmp_path / name) for name in ("run", "run/checkpoints/best.ckpt", "other/run/checkpoints/last.ckpt")
    )
    score([last, best])
    for name, checkpoint in (("perplexity.json", last), ("perplexity_2.json", best)):
        assert json.loads((run / "evaluate" / name).read_text())["checkpoint"] == checkpoint
    score([last, other], out=str(tmp_path / "out"))  # of one name
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"perplexity_1.json", "perplexity_2.json"}
    written = (tmp_path / "out" / name for name in ("perplexity_1.json", "perplexity_2.json", "perplexity.png"))
    assert capsys.readouterr().out.endswith(f"written: {', '.join(map(str, written))}\n")
    assert len(list((tmp_path / "out").glob("*/events*"))) == 2


def test_results_with_another_tokenizer_are_not_mixed(run, tmp_path, capsys):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The quick brown fox jumps over the lazy dog. " * 20)
    copytree("data/mistral_v1", tmp_path / "tokenizer")
    score = partial(evaluate_perplexity, str(run), lengths=[16], device="cpu")
    for _ in range(2):
        score([str(tmp_path / "a.txt")])
    assert "replaced" not in capsys.readouterr().out
    record = score([str(tmp_path / "b.txt")], tokenizer=str(tmp_path / "tokenizer"))["run"]
    assert record["tokenizer"] == str(tmp_path / "tokenizer") and list(record["results"]) == [str(tmp_path / "b.txt")]
    assert "perplexity.json will be replaced, since these differ: tokenizer\n" in capsys.readouterr().out


def unreachable(*arguments, **options):
    raise ConnectionError("no route")


def test_a_data_set_of_the_hub_by_name(monkeypatch):
    class Rows(list):
        def map(self, function):
            return Rows(map(function, self))

        def skip(self, start):
            return self[start:]

    asked = []

    def load_dataset(name, config, split, revision, streaming):
        asked.append((name, split, revision))
        return Rows([{"problem": "1+1?", "solution": "2", "level": 5}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
    tokenizer = load_tokenizer("data/mistral_v1")
    got = token_sequences("math_hard", tokenizer, [5], 1)[0]
    assert asked == [("lighteval/MATH-Hard", "test", "abc")]
    assert got.tolist() == [2, *tokenizer.encode(["Problem: 1+1?, Solution: 2"])[0][:5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "runs/none"}, "checkpoint: there is no runs/none"),
        ({"texts": ["/nope.txt"]}, r"texts: must be a file, .*, got /nope\.txt"),
        ({"lengths": []}, "lengths: must name at least one"),
        ({"lengths": [0, 4]}, "lengths: must be at least 1, got 0"),
        ({"sequences": 0}, "sequences: must be at least 1, got 0"),
    ],
)
def test_what_is_refused(options, message, run):
    with pytest.raises(ConfigError, match=message):
        evaluate_perplexity(**{"checkpoint": str(run), "texts": ["stdlib"], "device": "cpu", **options})


def test_a_tokenizer_of_another_size_is_refused(run):
    saved = torch.load(run / "checkpoints/last.ckpt")
    model = DeltaNet(**{**saved["hyper_parameters"], "vocab_size": 100})
    torch.save({**saved, "hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()},
               run / "checkpoints/last.ckpt")  # fmt: skip
    with pytest.raises(ConfigError, match=r"tokenizer: data/mistral_v1 has 32000 tokens, the model 100"):
        evaluate_perplexity(str(run), ["stdlib"], device="cpu")


@pytest.mark.slow
def test_the_callback_scores_validation_sequences_during_training(random_shards, tmp_path):
    fit(
        [
            "--config=conf/pretrain_smoke.yaml",
            f"--run_dir={tmp_path / 'run'}",
            f"--data.shards={random_shards}",
            "--data.context=64",
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=2",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.callbacks+=callbacks.PerplexityByLength",
            "--trainer.callbacks.lengths=[64,500]",
            "--trainer.callbacks.sequences=2",
            "--trainer.callbacks.segment=100",
        ]
    )
    record = json.loads((tmp_path / "run/perplexity_by_length.json").read_text())
    assert record["step"] == 2 and record["sequences"] == 2
    sequences = FineWeb(str(random_shards)).validation_sequences(500, 2)
    model = load_model(tmp_path / "run/checkpoints/last.ckpt")
    want = score_perplexity(model, sequences, [64, 500]).as_record()
    for kind in ("running_at", "position_at"):
        for length, value in want[kind].items():
            assert record[kind][str(length)] == pytest.approx(value, rel=1e-4)
    with pytest.raises(DataError, match=r"data.shards: the validation split of .* too few for a sequence of 9,000,000"):
        FineWeb(str(random_shards)).validation_sequences(9_000_000, 2)
