"""The command `python -m lrnn.export`: what it writes, what it reads, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from lrnn.export.__main__ import export
from lrnn.fit import fit
from lrnn.models import MLSTM, DeltaNet, DeltaProduct, Mamba
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.errors import ConfigError

pytestmark = pytest.mark.slow
SMALL = {"vocab_size": 50, "width": 32, "layers": 2}


def test_a_run_is_exported_with_the_tokenizer_of_its_config(random_shards, tmp_path, capsys):
    tiny = ("--model.width=16", "--model.mlp_width=16", "--trainer.max_steps=1", "--trainer.limit_val_batches=0")
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    data = (f"--data.shards={random_shards}", f"--run_dir={tmp_path}/run")
    fit(["--config=conf/pretrain_smoke.yaml", *data, *tiny, *quiet])
    export(f"{tmp_path}/run", f"{tmp_path}/out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "TOKENIZER_LICENSE"),
    }
    shown = capsys.readouterr().out
    assert f"AutoModelForCausalLM.from_pretrained('{tmp_path}/out')" in shown and "AutoTokenizer" in shown


class TwoProcesses(DefaultSavePlanner):
    """Writes every tensor in two parts along its first dimension, as two processes do that share it."""

    def create_local_plan(self):
        plan, items = super().create_local_plan(), []
        for item in plan.items:
            rows, *rest = item.tensor_data.size
            for start, stop in ((0, (rows + 1) // 2), ((rows + 1) // 2, rows)):
                offsets = torch.Size([start, *(0 for _ in rest)])
                part = replace(item.tensor_data, chunk=ChunkStorageMetadata(offsets, torch.Size([stop - start, *rest])))
                items.append(WriteItem(MetadataIndex(item.index.fqn, offsets), WriteItemType.SHARD, tensor_data=part))
        self.plan = replace(plan, items=items)
        return self.plan

    def lookup_object(self, index):
        whole = self.state_dict[index.fqn]
        return whole.split((len(whole) + 1) // 2)[index.offset[0] > 0]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_sharded_checkpoint(tmp_path, description, save_run, random_model):
    model, folder = random_model(Mamba, width=15), tmp_path / "shards"  # parts of unequal size
    run = Path(save_run(model, tmp_path / "run"))
    weights = dict(model.state_dict())
    writer = dcp.FileSystemWriter(folder, thread_count=2)
    dcp.save(
        {"state_dict": weights, "optimizer_0": weights}, storage_writer=writer, planner=TwoProcesses(), no_dist=True
    )
    assert len(list(folder.glob("*.distcp"))) == 2
    with pytest.raises(ConfigError, match=r"shards is neither .*meta\.pt"):
        load_model(str(folder))
    torch.save(description(model), folder / "meta.pt")
    for name, weight in load_model(str(folder)).state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    export(str(run), f"{tmp_path}/out", checkpoint=str(folder))
    next(folder.glob("*.distcp")).unlink()
    with pytest.raises(ConfigError, match=r"shards is not a whole one"):
        export(str(run), f"{tmp_path}/again", checkpoint=str(folder))
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: MLSTM(**SMALL),
            r"holds a lrnn\.models\.MLSTM, which has no class in the .*; lrnn\.models\.DeltaNet, lrnn",
        ),
        (lambda: Mamba(**SMALL, norm="layer"), r"model\.norm: can't be exported with layer, only with rms"),
        (lambda: DeltaNet(**SMALL), r"model\.mlp_width: can't be exported with None, .* always has an MLP"),
        (
            lambda: DeltaProduct(**SMALL, mlp_width=8, conv_size=0, qk_activation="identity"),
            r"model\.qk_activation: can't be exported with identity, only with silu",
        ),
        (lambda: DeltaProduct(**SMALL, mlp_width=8, beta_bias=True), r"model\.beta_bias: can't be exported with True"),
        (
            lambda: DeltaProduct(**SMALL, mlp_width=8, beta_stretch=0.1),
            r"model\.beta_stretch: .* with 0\.1, only with 0",
        ),
        (lambda: DeltaNet(**SMALL, mlp_width=8, beta_stretch=0.1), r"model\.beta_stretch: .* with 0\.1, only with 0"),
        (lambda: Mamba(**SMALL, mlp_width=8), r"model\.mlp_width: can't be exported with 8, .* has no MLP"),
    ],
)
def test_models_that_the_ecosystem_has_no_class_for(model, message, tmp_path, exported):
    with pytest.raises(ConfigError, match=message):
        exported(model())
    assert not list(tmp_path.glob("exported*"))


def test_bad_input_leaves_nothing(tmp_path, monkeypatch, save_run):
    run, out = save_run(Mamba(**SMALL), tmp_path / "run"), tmp_path / "out"
    with pytest.raises(ConfigError, match="tokenizer: data/mistral_v1 has 32000 tokens, the model 50"):
        export(run, str(out), tokenizer="data/mistral_v1")
    with pytest.raises(ConfigError, match=r"checkpoint: there is no nothing"):
        export(run, str(out), checkpoint="nothing")
    for size in ("large", "0GB", "5"):
        with pytest.raises(ConfigError, match=f"max_shard_size: must be a size such as 500MB or 5GB, got {size}"):
            export(run, str(out), max_shard_size=size)
    with pytest.raises(ConfigError, match=r"checkpoint: README.md is not a whole one of python -m lrnn.fit"):
        export(run, str(out), checkpoint="README.md")

    def full_disk(weights, folder, **_):
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lrnn.export.__main__.save_torch_state_dict", full_disk)
        with pytest.raises(ConfigError, match=r"out: .*out could not be written \(No space left on device\)"):
            export(run, str(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    out.mkdir()
    export(run, str(out))  # into an empty folder
    with pytest.raises(ConfigError, match=r"out: .*out exists"):
        export(run, str(out))
    shutil.rmtree(run)
    with pytest.raises(ConfigError, match=r"checkpoint: there is no"):
        export(run, str(tmp_path / "other"))
