"""A stack of different mixers, named by a YAML, trains, resumes and decodes as any architecture does."""

from pathlib import Path

import pytest
import torch

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
