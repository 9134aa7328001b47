"""The same tasks by our adapter and by lm-evaluation-harness's own adapter on the exported model: every request."""

import json
from pathlib import Path

import pytest
import torch

from lrnn.export.__main__ import export
from lrnn.models import Mamba

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")  # of lm_eval[hf], whose adapter ours is compared with
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
TEXTS = ["The cat sat on the mat.", "One two three four five six seven.", "def f(x):\n    return x + 1\n" * 8]
TASKS = {
    "local_choices": """
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_target: 1
doc_to_choice: ["yes", "no, never", "it depends on the weather"]
""",
    "local_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "local_generation": """
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "x"
generation_kwargs: {until: ["a"], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a Mamba with random weights, its exported folder, and local tasks."""
    folder = tmp_path_factory.mktemp("harness")
    torch.manual_seed(0)
    model = Mamba(vocab_size=32000, width=32, layers=2, eigenvalue_range=(0, 1), init_std=0.3)
    (folder / "run/checkpoints").mkdir(parents=True)
    config = {"data": {"class_path": "data.FineWeb", "init_args": {"tokenizer": "data/mistral_v1", "context": 64}}}
    (folder / "run/config.yaml").write_text(json.dumps(config))
    saved = {"model": model.class_path, "hyper_parameters": dict(model.hparams), "global_step": 7}
    torch.save({**saved, "state_dict": model.state_dict()}, folder / "run/checkpoints/last.ckpt")
    (folder / "tasks").mkdir()
    (folder / "tasks/docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, task in TASKS.items():
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/tasks/docs.jsonl}}}}"
        (folder / f"tasks/{name}.yaml").write_text(f"task: {name}\n{data}\ntest_split: test\n{task}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        export(str(folder / "run"), str(folder / "exported"))
    return folder


@pytest.fixture(autouse=True)
def _offline_in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_every_request_as_with_the_adapter_for_hugging_face(folder):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import MambaForCausalLM

    from lrnn.evaluate.harness import Adapter
    from lrnn.evaluate.subject import load_subject

    theirs = HFLM(
        pretrained=MambaForCausalLM.from_pretrained(folder / "exported", dtype=torch.float32),
        tokenizer=str(folder / "exported"),
        max_length=48,  # so that the longest text needs windows
        batch_size=1,  # its left padding would enter the states
        device="cpu",
    )
    manager = TaskManager(include_path=str(folder / "tasks"))
    answers = {}
    for path in (str(folder / "run"), str(folder / "exported")):
        subject = load_subject(path)
        for model in (Adapter(subject.model, subject.tokenizer, 4, 48), *([theirs] if path.endswith("run") else [])):
            found = simple_evaluate(model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
            samples = [sample for task in TASKS for sample in found["samples"][task]]
            answers[path, model is theirs] = [answer for sample in samples for answer in sample["resps"]]
    want = answers.pop((str(folder / "run"), True))
    assert len(want) == len(TEXTS) * (3 + 1 + 1)
    for got in answers.values():
        for one, other in zip(flat(got), flat(want), strict=True):
            assert one == (pytest.approx(other, abs=1e-3) if isinstance(other, float) else other)


def flat(answer):
    return [x for part in answer for x in flat(part)] if isinstance(answer, list | tuple) else [answer]


def test_the_command_writes_each_task_and_names_an_unknown_one(folder, tmp_path):
    from lrnn.evaluate.tasks import evaluate_tasks
    from lrnn.runtime.errors import ConfigError

    options = {"checkpoint": str(folder / "run"), "include_path": str(folder / "tasks"), "device": "cpu"}
    with pytest.raises(ConfigError, match="tasks: lm-evaluation-harness has no local_choice; did you mean"):
        evaluate_tasks(tasks=["local_choice"], **options)
    (folder / "tasks/broken.yaml").write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: {test: none.jsonl}}\ntest_split: test\n"
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    )
    with pytest.raises(ConfigError, match=r"tasks: broken \(.*\) could not be scored; the others are in"):
        evaluate_tasks(tasks=["broken", "local_choices"], out=str(tmp_path), **options)
    record = json.loads((tmp_path / "tasks.json").read_text())
    assert record["step"] == 7 and record["eigenvalue_range"] == [0.0, 1.0]
    assert 0 <= record["results"]["local_choices"]["acc"] <= 1
