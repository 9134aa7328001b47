"""Exported folders, loaded by the classes of the ecosystem: logits, decoding, tokenizer ids, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from data.text.tokenizer import load_tokenizer
from lrnn.export.__main__ import export
from lrnn.export.load import load_exported
from lrnn.fit import fit
from lrnn.models import MLSTM, DeltaNet, DeltaProduct, Mamba
from lrnn.models.decoding import continue_prompts
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.errors import ConfigError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RANGES = ((0, 1), (-1, 1))
SMALL = {"vocab_size": 50, "width": 32, "layers": 2}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def description(model):
    return {"model": model.class_path, "hyper_parameters": dict(model.hparams)}


def save_run(model, folder):
    """A run without a tokenizer, as of a synthetic task."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("data:\n  class_path: data.Parity\n  init_args: {}\n")
    torch.save({**description(model), "state_dict": model.state_dict()}, folder / "checkpoints/last.ckpt")
    return str(folder)


def random_model(architecture, **options):
    """Noise on every weight: some start at zero or one, where a mistake would not show."""
    model = architecture(**{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def counting(length):
    """Sequences (8, length) that count by threes, modulo 50, from a random start."""
    return (torch.randint(50, (8, 1)) + 3 * torch.arange(length)) % 50


def taught_model(architecture, **options):
    """It has learned to count by threes, so that its logits stand out of the rounding as a language model's do."""
    model = architecture(vocab_size=50, width=64, layers=2, init_std=0.02, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        tokens = counting(41)
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    return model.eval()


def exported(model, tmp_path, **options):
    out = tmp_path / "exported"
    export(save_run(model, tmp_path / "run"), str(out), **options)
    return out


def load(folder, loader="AutoModelForCausalLM", **options):
    """Load a folder by a class of transformers; every weight must have its place there."""
    import transformers

    model, report = getattr(transformers, loader).from_pretrained(folder, output_loading_info=True, **options)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    return model.eval()


def largest_difference(got, want):
    """Relative to the largest logit, which is a few units here."""
    return ((got.float() - want).abs().max() / want.abs().max()).item()


# --- DeltaNet ---


@pytest.fixture
def fla_without_triton(monkeypatch):
    """flash-linear-attention's own modules, with PyTorch in place of the kernels that they call."""
    import fla.layers.delta_net as layer
    import fla.layers.gated_deltaproduct as product_layer
    import fla.modules.causal_conv1d.ops as convolution
    import fla.modules.mlp as mlp
    import fla.modules.norm.layernorm as norm
    from fla.ops.delta_rule.naive import delta_rule_recurrence
    from fla.ops.gated_delta_product.naive import naive_recurrent_gated_delta_product

    def delta_rule(q, k, v, beta, use_qk_l2norm_in_kernel, **_):
        assert use_qk_l2norm_in_kernel
        dtype = v.dtype
        q, k, v, beta = (x.float() for x in (q, k, v, beta))
        q, k = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k))
        o, _ = delta_rule_recurrence(*(x.transpose(1, 2) for x in (q, k, v, beta)))
        return o.transpose(1, 2).to(dtype), None

    def delta_product(q, k, v, g, beta, num_householder, use_qk_l2norm_in_kernel, scale=None, **_):
        assert use_qk_l2norm_in_kernel and scale is None
        q, k = (x * (x.float().square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k))
        scale = q.shape[-1] ** -0.5
        return naive_recurrent_gated_delta_product(q, k, v, g, beta, scale, num_householder=num_householder)

    def conv(x, weight, bias, activation, **_):
        assert activation == "silu"
        taps = weight.shape[1]
        return F.silu(F.conv1d(F.pad(x.mT, (taps - 1, 0)), weight[:, None], bias, groups=x.shape[2])).mT, None

    monkeypatch.setattr(layer, "chunk_delta_rule", delta_rule)
    monkeypatch.setattr(layer, "fused_recurrent_delta_rule", delta_rule)
    monkeypatch.setattr(product_layer, "chunk_gated_delta_product", delta_product)
    monkeypatch.setattr(convolution, "causal_conv1d", conv)
    monkeypatch.setattr(norm, "rms_norm", lambda residual_in_fp32, **options: norm.rms_norm_ref(**options))
    monkeypatch.setattr(mlp, "swiglu_linear", lambda x, y, weight, bias: F.linear(F.silu(x) * y, weight, bias))


@pytest.mark.parametrize("conv_size", [4, 0])
@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore")  # of flash-linear-attention without a GPU
def test_delta_net_in_flash_linear_attention(eigenvalue_range, conv_size, fla_without_triton, tmp_path):
    options = {"heads": 2, "mlp_width": 48, "norm_eps": 1e-3, "tie_embeddings": conv_size == 4}
    head_size = 24 if conv_size else None
    options |= {"qk_activation": "silu" if conv_size or eigenvalue_range[0] else "identity"}
    model = random_model(
        DeltaNet, eigenvalue_range=eigenvalue_range, head_size=head_size, conv_size=conv_size, **options
    )
    theirs = load(exported(model, tmp_path), dtype=torch.float32)
    assert type(theirs).__module__.startswith("fla.")
    tokens = torch.randint(50, (2, 90))
    with torch.no_grad():
        assert largest_difference(theirs(tokens, use_cache=False).logits, model(tokens)[0]) <= 1e-4


@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore")  # of flash-linear-attention without a GPU
def test_delta_net_in_flash_linear_attention_in_bfloat16(eigenvalue_range, fla_without_triton, tmp_path):
    model = taught_model(DeltaNet, eigenvalue_range=eigenvalue_range, heads=2, mlp_width=128)
    theirs = load(exported(model, tmp_path))
    assert theirs.dtype == torch.bfloat16
    tokens = counting(90)
    with torch.no_grad():
        assert largest_difference(theirs(tokens, use_cache=False).logits, model(tokens)[0]) <= 2e-2


@pytest.mark.gpu
@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore")  # of flash-linear-attention and its compilers
def test_delta_net_in_flash_linear_attention_on_a_gpu(eigenvalue_range, tmp_path):
    """fla's kernel for short sequences runs in float32, its kernel for long ones in bfloat16, its only dtype."""
    import fla  # noqa: F401  makes its classes known to transformers

    model = taught_model(DeltaNet, eigenvalue_range=eigenvalue_range, heads=2, mlp_width=128)
    folder = exported(model, tmp_path)
    tokens = counting(300)
    with torch.no_grad():
        want = model(tokens)[0].cuda()
        tokens = tokens.cuda()
        short = load(folder, dtype=torch.float32).cuda()(tokens[:, :60]).logits
        assert largest_difference(short, want[:, :60]) <= 1e-4
        theirs = load(folder).cuda()
        assert theirs.dtype == torch.bfloat16
        assert largest_difference(theirs(tokens).logits, want) <= 2e-2
        continued = theirs.generate(tokens[:1, :5], max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert continued.shape == (1, 25)


# --- DeltaProduct ---


@pytest.mark.parametrize("forget_gate", [True, False])
@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore")  # of flash-linear-attention without a GPU
def test_delta_product_in_flash_linear_attention(eigenvalue_range, forget_gate, fla_without_triton, tmp_path):
    options = {"eigenvalue_range": eigenvalue_range, "forget_gate": forget_gate, "conv_size": 4 if forget_gate else 0}
    options |= {"heads": 2, "head_size": 12, "reflections": 3, "mlp_width": 48, "norm_eps": 1e-3}
    model = random_model(DeltaProduct, tie_embeddings=forget_gate, **options)
    theirs = load(exported(model, tmp_path), dtype=torch.float32)
    assert type(theirs).__module__.startswith("fla.models.gated_deltaproduct")
    tokens = torch.randint(50, (2, 90))
    with torch.no_grad():
        assert largest_difference(theirs(tokens, use_cache=False).logits, model(tokens)[0]) <= 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("forget_gate", [True, False])
@pytest.mark.filterwarnings("ignore")  # of flash-linear-attention and its compilers
def test_delta_product_in_flash_linear_attention_on_a_gpu(forget_gate, tmp_path):
    """fla's kernel for short sequences runs in float32, its kernel for long ones in bfloat16."""
    import fla  # noqa: F401  makes its classes known to transformers

    model = taught_model(DeltaProduct, heads=2, reflections=2, mlp_width=128, forget_gate=forget_gate)
    folder = exported(model, tmp_path)
    tokens = counting(300)
    with torch.no_grad():
        want = model(tokens)[0].cuda()
        tokens = tokens.cuda()
        short = load(folder, dtype=torch.float32).cuda()(tokens[:, :60]).logits
        assert largest_difference(short, want[:, :60]) <= 1e-4
        assert largest_difference(load(folder).cuda()(tokens).logits, want) <= 2e-2


# --- Mamba ---


def load_mamba(folder, eigenvalue_range, **options):
    if eigenvalue_range == (0, 1):  # flash-linear-attention, once imported, puts its own behind "Auto"
        return load(folder, "MambaForCausalLM", **options)
    model = load(folder, trust_remote_code=True, **options)
    assert type(model).__module__.startswith("transformers_modules.")
    return model


@pytest.mark.parametrize("conv_size", [4, 0])
@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mamba_in_transformers(eigenvalue_range, conv_size, tmp_path):
    options = {"state_size": 3, "expand": 3, "dt_scale": 8.0, "norm_eps": 1e-3, "tie_embeddings": conv_size == 4}
    model = random_model(Mamba, eigenvalue_range=eigenvalue_range, conv_size=conv_size, **options)
    folder = exported(model, tmp_path, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    theirs = load_mamba(folder, eigenvalue_range)
    tokens = torch.randint(50, (2, 90))
    with torch.no_grad():
        want, _ = model(tokens)
        assert largest_difference(theirs(tokens).logits, want) <= 1e-4

    # token by token, from a prompt shorter than the convolution and from a long one
    for prompt in (tokens[0, :2], tokens[0, :70]):
        (ours,) = continue_prompts(model, [prompt.tolist()], 20)
        continued = theirs.generate(prompt[None], max_new_tokens=20, do_sample=False, eos_token_id=None)
        assert continued[0, len(prompt) :].tolist() == ours and len(set(ours)) > 2
        step = theirs(prompt[None], use_cache=True)
        for token in ours:
            got = theirs(torch.tensor([[token]]), cache_params=step.cache_params, use_cache=True).logits
            prompt = torch.cat([prompt, torch.tensor([token])])
            with torch.no_grad():
                assert largest_difference(got[0, -1], model(prompt[None])[0][0, -1]) <= 1e-4

    # a batch with padding on the left
    padded = F.pad(tokens[:, 10:], (10, 0))
    mask = F.pad(torch.ones_like(tokens[:, 10:]), (10, 0))
    with torch.no_grad():
        got, want = theirs(padded, attention_mask=mask).logits, model(tokens[:, 10:])[0]
    assert largest_difference(got[:, 10:], want) <= 1e-4


@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_generation_of_mamba_in_two_calls_is_that_of_one(eigenvalue_range, tmp_path):
    """The second call reads what the first has not: one token of each row."""
    theirs = load_mamba(exported(random_model(Mamba, eigenvalue_range=eigenvalue_range), tmp_path), eigenvalue_range)
    tokens, mask = torch.randint(50, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[1, :4] = 0
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "return_dict_in_generate": True}
    whole = theirs.generate(tokens, attention_mask=mask, max_new_tokens=12, **options).sequences
    first = theirs.generate(tokens, attention_mask=mask, max_new_tokens=5, **options)
    state, unread = first.past_key_values, first.sequences[:, -1:]
    second = theirs.generate(unread, cache_params=state, max_new_tokens=7, **options)
    assert torch.equal(torch.cat([first.sequences, second.sequences[:, 1:]], dim=1), whole)
    assert second.past_key_values is state and len(set(whole[:, 7:].flatten().tolist())) > 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_state_of_negative_mamba_reads_several_unread_tokens(tmp_path):
    """transformers' own Mamba takes the same arguments, but starts from h = 0: ours is compared with one reading."""
    theirs = load_mamba(exported(random_model(Mamba, eigenvalue_range=(-1, 1)), tmp_path), (-1, 1))
    tokens, mask = torch.randint(50, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, :4] = 0
    options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        whole, logits = theirs.generate(tokens, attention_mask=mask, **options), theirs(tokens, mask).logits
        for cut in (2, 5, 11):
            before = theirs(tokens[:, :cut], mask[:, :cut]).cache_params
            kept = before.copy()
            for given in (None if cut > 4 else mask[:, cut:], mask):  # of the unread tokens, of all
                state = kept.copy()
                got = theirs(tokens[:, cut:], given, cache_params=state, use_cache=False).logits
                assert largest_difference(got, logits[:, cut:]) <= 1e-4
                for use_cache in (False, True):  # the first leaves the state as it was
                    asked = {"attention_mask": given, "cache_params": state, "use_cache": use_cache}
                    got = theirs.generate(tokens[:, cut:], **asked, **options)
                    assert torch.equal(got, whole[:, cut:])
        with pytest.raises(ValueError, match="attention_mask: padding after the beginning of a text"):
            theirs(tokens, mask, cache_params=before)
        with pytest.raises(ValueError, match="attention_mask: must cover 12 tokens, 7 do"):
            theirs(tokens, mask[:, :7])
        assert isinstance(theirs(tokens, return_dict=False), tuple)
        sums = [theirs(tokens, labels=tokens, num_items_in_batch=n).loss * n for n in (33, 66)]  # as trainers ask for
        assert torch.isclose(*sums) and torch.isclose(sums[0] / 33, theirs(tokens, labels=tokens).loss)


@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mamba_in_transformers_in_bfloat16(eigenvalue_range, tmp_path):
    model = taught_model(Mamba, eigenvalue_range=eigenvalue_range)
    folder = exported(model, tmp_path)
    theirs = load_mamba(folder, eigenvalue_range, dtype=torch.bfloat16)
    tokens = counting(90)
    with torch.no_grad():
        assert largest_difference(theirs(tokens).logits, model(tokens)[0]) <= 2e-2


# --- tokenizers ---


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Ours, and the exported one as transformers loads it."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    model = Mamba(vocab_size=32000, width=16, layers=1)
    export(save_run(model, folder / "run"), str(folder / "out"), tokenizer=str(ROOT / "data/mistral_v1"))
    assert (folder / "out/TOKENIZER_LICENSE").read_text() == (ROOT / "data/mistral_v1/LICENSE").read_text()
    theirs = AutoTokenizer.from_pretrained(folder / "out", trust_remote_code=True)
    return load_tokenizer(str(ROOT / "data/mistral_v1")), theirs


def same_ids(tokenizers, texts):
    ours, theirs = tokenizers
    for ids, text in zip(ours.encode(texts), texts, strict=True):
        assert theirs(text).input_ids == theirs.encode(text) == ids.tolist()
        assert theirs.decode(ids.tolist()) == ours.decode(ids.tolist())


def test_ids_of_runs_and_of_code(tokenizers):
    same_ids(tokenizers, [mark * count for mark in (" ", "\n", "\t", "=", "a") for count in range(70)])
    same_ids(tokenizers, ["x" + " " * count + "y" for count in range(200)])
    same_ids(tokenizers, [path.read_text() for path in sorted((ROOT / "lrnn").rglob("*.py"))])
    same_ids(tokenizers, ["</s>", "a </s> <s>b", "<unk>", "<0x0A>", ""])


@settings(max_examples=300, deadline=None)
@given(st.text(st.one_of(st.sampled_from("ab \t\n_(é漢\0😀▁"), st.characters(codec="utf-8")), max_size=60))
def test_ids_of_any_text(tokenizers, text):
    same_ids(tokenizers, [text])


def test_special_tokens(tokenizers):
    ours, theirs = tokenizers
    assert theirs.eos_token_id == theirs.pad_token_id == ours.eos and len(theirs) == ours.vocab_size
    assert theirs.decode([801, ours.eos], skip_special_tokens=True) == "def"


def test_a_fast_tokenizer_adds_and_cuts_nothing(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import AutoTokenizer

    alphabet = {mark: i for i, mark in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    made.post_processor = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 256)])
    made.enable_truncation(3)
    (tmp_path / "tokenizer").mkdir()
    made.save(str(tmp_path / "tokenizer/tokenizer.json"))
    (tmp_path / "tokenizer/tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    folder = exported(random_model(Mamba, vocab_size=257), tmp_path, tokenizer=str(tmp_path / "tokenizer"))
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    same_ids((load_tokenizer(str(tmp_path / "tokenizer")), theirs), ["the   cat\n<|end|> é", ""])
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 256


# --- the command ---


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
def test_a_sharded_checkpoint(tmp_path):
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
        (lambda: Mamba(**SMALL, mlp_width=8), r"model\.mlp_width: can't be exported with 8, .* has no MLP"),
    ],
)
def test_models_that_the_ecosystem_has_no_class_for(model, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        exported(model(), tmp_path)
    assert not list(tmp_path.glob("exported*"))


def test_bad_input_leaves_nothing(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("conv_size", [4, 0])
@pytest.mark.parametrize("eigenvalue_range", RANGES)
def test_an_exported_folder_is_read_back_bit_for_bit(eigenvalue_range, conv_size, tmp_path):
    options = {"eigenvalue_range": eigenvalue_range, "conv_size": conv_size, "norm_eps": 1e-3}
    models = [
        random_model(DeltaNet, heads=2, head_size=24, mlp_width=48, tie_embeddings=conv_size == 4, **options),
        random_model(Mamba, state_size=5, expand=3, tie_embeddings=conv_size == 0, **options),
    ]
    tokens = torch.randint(50, (2, 20))
    for number, model in enumerate(models):
        folder = exported(model, tmp_path / str(number))
        back = load_exported(folder)
        with torch.no_grad():
            assert torch.equal(back(tokens)[0], model(tokens)[0])
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match=r"checkpoint: .* has a gpt2, only delta_net, mamba, mamba_negative"):
        load_exported(folder)
