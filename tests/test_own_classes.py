"""A new architecture is one file and one YAML, and so is a new task: the examples of the READMEs, outside `lrnn`."""

import re
from pathlib import Path

import pytest

from lrnn.evaluate.lengths import evaluate_lengths
from lrnn.export.__main__ import export
from lrnn.fit import fit
from lrnn.generate import generate, load_model
from lrnn.models.decoding import continue_prompts
from lrnn.runtime.errors import ConfigError
from lrnn.sweep.__main__ import sweep
from lrnn.sweep.grid import Block
from lrnn.sweep.table import table

ROOT = Path(__file__).parents[1]
TINY = (
    "--config=conf/parity.yaml",
    "--data.batch_size=4",
    "--data.validation_samples=8",
    "--data.test_samples=8",
    "--trainer.max_steps=6",
    "--trainer.val_check_interval=3",
    "--trainer.callbacks.lengths=[40,64]",
    "--trainer.callbacks.final_lengths=[]",
    "--trainer.callbacks.samples=8",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)


def example(readme, language):
    """The first block of that language in a README."""
    return re.search(rf"```{language}\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)[1]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a user's own modules and YAMLs. Python imports from it; the commands run in the checkout."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for the processes of a sweep
    for name, readme in (("cumulative_mean", "lrnn/models/README.md"), ("majority", "data/README.md")):
        (tmp_path / f"{name}.py").write_text(example(readme, "python"))
        (tmp_path / f"{name}.yaml").write_text(example(readme, "yaml"))
    return tmp_path


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_own_classes_train_resume_and_are_evaluated(own, train_whole_and_cut):
    options = [*TINY, f"--config={own}/cumulative_mean.yaml", f"--config={own}/majority.yaml"]
    whole = train_whole_and_cut(options, step=3)
    assert type(whole.model).__name__ == "CumulativeMean" and type(whole.datamodule).__name__ == "Majority"
    evaluate_lengths(f"{own}/whole/checkpoints/last.ckpt", lengths=[40, 100], samples=8, out=f"{own}/scores")
    assert '"100"' in (own / "scores/lengths.json").read_text()


def test_an_own_architecture_generates_and_is_not_exported(own, random_shards, capsys):
    options = ["--config=conf/pretrain_smoke.yaml", "--trainer.callbacks=[]", f"--data.shards={random_shards}"]
    options += [f"--config={own}/cumulative_mean.yaml", "--model.width=8", "--trainer.max_steps=1"]
    options += ["--trainer.limit_val_batches=0", "--data.context=16", f"--run_dir={own}/run"]
    options += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    fit(options)
    checkpoint = f"{own}/run/checkpoints/last.ckpt"
    (tokens,) = continue_prompts(load_model(checkpoint), [[5, 6]], 4)
    assert len(tokens) == 4
    generate(checkpoint, "def f", tokens=4)
    assert "def f" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"cumulative_mean\.CumulativeMean, which has no class in the Hugging Face"):
        export(f"{own}/run", f"{own}/exported")


@pytest.mark.slow
def test_own_classes_enter_the_table_of_a_sweep(own, capsys):
    models = {"Cumulative mean": f"--config={own}/cumulative_mean.yaml"}
    tasks = {"majority": f"--config={own}/majority.yaml"}
    arguments = " ".join([*TINY, "--data.test_samples=16"])
    sweep(f"{own}/sweep", [Block(models, tasks)], [1e-2], seeds=(0,), arguments=arguments, accelerator="cpu", devices=1)
    table(f"{own}/sweep")
    text = (own / "sweep/table.md").read_text()
    assert "## majority" in text and re.search(r"\| Cumulative mean \| - \|.*\| 0\.01 \|", text)
