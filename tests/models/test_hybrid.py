"""A stack of different mixers, named by a YAML, trains, resumes and decodes as any architecture does."""

import re
from pathlib import Path

import pytest
import torch

from callbacks import LengthGeneralization
from lrnn.fit import FitCLI
from lrnn.generate import load_model
from lrnn.models import AttentionMixer, DeltaNetMixer
from lrnn.models.decoding import continue_prompts

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_a_hybrid_resumes_bit_for_bit_and_decodes(random_shards, train_whole_and_cut, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = [
        "--config=conf/hybrid.yaml",
        f"--data.shards={random_shards}",
        "--data.context=16",
        "--model.width=16",
        "--model.mlp_width=16",
        "--model.mixers.attention.heads=2",
        "--trainer.max_steps=4",
        "--trainer.callbacks=[]",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
    train_whole_and_cut(options, step=2)
    cut = load_model(tmp_path / "cut/checkpoints/last.ckpt")
    kinds = [type(block.mixer) for block in cut.backbone.blocks]
    assert kinds == [DeltaNetMixer, DeltaNetMixer, DeltaNetMixer, AttentionMixer]
    assert cut.backbone.blocks[3].mixer.heads == 2

    tokens = [5, 6, 7]
    (decoded,) = continue_prompts(cut, [tokens], 3)
    for _ in decoded:  # against reading everything again
        tokens.append(int(cut(torch.tensor([tokens]))[0][0, -1].argmax()))
    assert decoded == tokens[3:]


def test_the_stack_of_the_readme_builds_on_parity_and_ends_soon(tmp_path, monkeypatch):
    """Attention on a CPU reads 16,384 tokens, the longest of the default lengths, for more than ten minutes."""
    monkeypatch.chdir(ROOT)
    section = (ROOT / "lrnn/models/README.md").read_text().partition("## Stack different mixers")[2]
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1])
    cli = FitCLI(["--config=conf/parity.yaml", f"--config={tmp_path}/mine.yaml", f"--run_dir={tmp_path}/run"])
    kinds = [type(block.mixer) for block in cli.model.backbone.blocks]
    assert kinds == 2 * [DeltaNetMixer, DeltaNetMixer, DeltaNetMixer, AttentionMixer]
    (lengths,) = [one for one in cli.trainer.callbacks if isinstance(one, LengthGeneralization)]
    assert lengths.final_lengths == (512, 1024)
