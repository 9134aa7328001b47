"""All architectures keep the same promises: decoding, causality, precision, compilation, weight decay."""

import math
from functools import partial

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lrnn.models import (
    MLP,
    MLSTM,
    SLSTM,
    AttentionMixer,
    DeltaNet,
    DeltaNetMixer,
    DeltaProduct,
    Diagonal,
    FullMatrix,
    Hybrid,
    Mamba,
    Mixer,
    MLSTMMixer,
    SLSTMMixer,
    SwiGLU,
    Transformer,
)
from lrnn.ops import at_least_float32

SMALL = {"vocab_size": 5, "width": 16, "layers": 2}
RANGES = ((0, 1), (-1, 1))


class TokenShift(Mixer):
    """A channel mixer with a state: the mean of a token and the one before it."""

    def __init__(self, layer):
        super().__init__()

    def forward(self, x, state=None):
        before = torch.zeros_like(x[:, :1]) if state is None else state[0]
        return (x + torch.cat([before, x[:, :-1]], 1)) / 2, (at_least_float32(x[:, -1:]).clone(),)


HYBRID = {
    "mixers": {"delta": partial(DeltaNetMixer, heads=2), "attention": partial(AttentionMixer, heads=2)},
    "pattern": ["delta", "delta", "delta", "attention"],
    "layers": 4,
}


def only(mixer, **options):
    """Options of a stack of one mixer."""
    return {"mixers": {"one": partial(mixer, **options)}, "pattern": ["one"]}


ARCHITECTURES = (
    (DeltaNet, {"heads": 2, "mlp_width": 24}),
    (DeltaNet, {"heads": 3, "head_size": 12, "conv_size": 0, "gate_saturation": 1.0}),
    (DeltaProduct, {"heads": 2, "reflections": 3, "mlp_width": 24}),
    (DeltaProduct, {"heads": 2, "forget_gate": True, "conv_size": 0, "qk_activation": "identity", "beta_bias": True}),
    (Mamba, {"state_size": 3, "dt_scale": 16.0}),
    (Mamba, {"state_size": 3, "conv_size": 0, "gate_saturation": 1.0}),
    (MLSTM, {"heads": 2}),
    (MLSTM, {"heads": 4, "conv_size": 0, "channel_mixer": partial(MLP, hidden=8)}),
    (SLSTM, {"heads": 2, "mlp_width": 24}),
    (SLSTM, {"heads": 4, "conv_size": 4}),
    (Diagonal, {}),
    (FullMatrix, {}),
    (Transformer, {"heads": 2, "mlp_width": 24}),
    (Mamba, {"state_size": 3, "channel_mixer": TokenShift, "norm": "layer"}),
    (Hybrid, {**HYBRID, "mlp_width": 24}),
)
WITH_A_RANGE = (DeltaNet, DeltaProduct, Mamba, MLSTM, Diagonal)
IN_EACH_RANGE = [
    (architecture, {**options, **span})
    for architecture, options in ARCHITECTURES
    for span in ([{"eigenvalue_range": span} for span in RANGES] if architecture in WITH_A_RANGE else [{}])
]


def shaken(model):
    """Add noise to every weight, since some start at zero, where a mistake would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    ("architecture", "options"), [(DeltaNet, {"heads": 1, "conv_size": 0, "form": "recurrent"}), (FullMatrix, {})]
)
def test_flops_are_those_that_a_counter_finds(architecture, options):
    """It finds products of matrices; here forward, with a recurrence that costs about as much as the weights."""
    model = architecture(vocab_size=5, width=32, layers=2, **options)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 16, dtype=torch.long))
    assert model.flops_per_token(16) == pytest.approx(3 * counter.get_total_flops() / (2 * 16), rel=0.05)


@pytest.mark.parametrize(("architecture", "options"), IN_EACH_RANGE)
def test_step_equals_the_parallel_form(architecture, options):
    model = shaken(architecture(**{**SMALL, **options})).double().eval()
    tokens = torch.randint(5, (3, 70))
    want, final = model(tokens)
    state = None
    for t in range(70):
        logits, state = model.step(tokens[:, t], state)
        torch.testing.assert_close(logits, want[:, t], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, final, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_a_sequence_read_in_pieces_gives_the_same_logits(architecture, options):
    model = shaken(architecture(**{**SMALL, **options})).eval()
    tokens = torch.randint(5, (2, 50))
    want, _ = model(tokens)
    state, pieces = None, []
    for piece in tokens.split([1, 2, 30, 17], dim=1):
        logits, state = model(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_a_recurrent_state_keeps_no_tokens_in_memory(architecture, options):
    """A state that is a view of the activations of all tokens would."""

    def held(tokens):
        _, state = model(torch.randint(5, (2, tokens)))
        mixers = [block.mixer for block in model.backbone.blocks]
        kept = [block for block, mixer in zip(state, mixers, strict=True) if not isinstance(mixer, AttentionMixer)]
        storages = [x.untyped_storage() for x in tree_leaves(kept)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    model = architecture(**{**SMALL, **options}).eval()
    assert held(8) == held(64)


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_no_token_sees_the_future(architecture, options):
    model = shaken(architecture(**{**SMALL, **options})).eval()
    tokens = torch.randint(5, (1, 20))
    changed = tokens.clone()
    changed[:, 12:] = (tokens[:, 12:] + 1) % 5
    torch.testing.assert_close(model(tokens)[0][:, :12], model(changed)[0][:, :12])


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_bfloat16_autocast_stays_close(architecture, options):
    model = architecture(**{**SMALL, **options}).eval()
    tokens = torch.randint(5, (2, 50))
    want, _ = model(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, state = model(tokens)
    assert ((got.float() - want).norm() / want.norm()).item() < 0.05
    for block, (mixer_state, _) in zip(model.backbone.blocks, state, strict=True):
        if not isinstance(block.mixer, AttentionMixer):  # whose state is what it has read, in the compute dtype
            assert mixer_state[-1].dtype == torch.float32


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_a_model_with_weights_in_bfloat16_learns_and_decodes(architecture, options):
    """As with --trainer.precision=bf16-true, where Lightning sets the default dtype too."""
    precision = HalfPrecision("bf16-true")
    model = precision.convert_module(architecture(**{**SMALL, **options}))
    tokens = torch.randint(5, (2, 20))
    with precision.forward_context():
        model.loss(tokens, tokens).backward()
        logits, _ = model.step(tokens[:, 0], model(tokens)[1])
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's own
def test_equal_blocks_compile_once_and_whole(architecture, options, autocast):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = architecture(**{**SMALL, "layers": 3, **options})
    for module, name in model.hot_paths():
        compiled = torch.compile(getattr(module, name), backend=count, fullgraph=True, dynamic=False)
        setattr(module, name, compiled)
    for _ in range(2):
        tokens = torch.randint(5, (2, 20))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model.loss(tokens, tokens)
        loss.backward()
    kinds = {type(block.mixer) for block in model.backbone.blocks}
    assert len(graphs) == len(kinds) + 1  # each kind of block, and the head


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_one_label_a_sequence_gives_the_same_loss_from_one_token(architecture, options):
    torch.manual_seed(0)
    model = architecture(**{**SMALL, **options}).double()
    labels = torch.full((4, 20), -100)
    labels[torch.arange(4), torch.tensor([0, 19, 7, 7])] = torch.tensor([1, 2, 3, 4])
    tokens = torch.randint(5, (4, 20))
    results, seen = [], []
    model.backbone.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:2]))
    for model.one_label in (False, True):
        loss = model.loss(tokens, labels)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)])
    torch.testing.assert_close(results[1], results[0])
    assert seen == [(4, 20), (4, 1)]


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_a_state_without_logits_is_the_same_and_has_its_gradient(architecture, options):
    model = architecture(**{**SMALL, **options}).double()
    tokens, nowhere = torch.randint(5, (2, 20)), torch.zeros(2, 0, dtype=torch.long)

    def state(positions):
        return [x for x in tree_leaves(model(tokens, None, positions)[1]) if x.numel()]

    def gradient(state):
        total = sum(x.square().sum() for x in state if x.requires_grad)
        return torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)

    whole, alone = state(None), state(nowhere)
    torch.testing.assert_close(alone, whole)
    torch.testing.assert_close(gradient(alone), gradient(whole))
    with torch.no_grad():
        torch.testing.assert_close(state(nowhere), whole)


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_what_gets_no_weight_decay(architecture, options):
    model = architecture(**{**SMALL, **options})
    decayed, kept = model.decay_groups()
    assert len(decayed) + len(kept) == len(list(model.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    exempt = {names[id(parameter)].rsplit(".", 1)[-1] for parameter in kept}
    matrices = {names[id(parameter)] for parameter in decayed}
    assert exempt <= {"beta_bias", "weight", "bias", "A_log", "D", "dt_bias", "gate_bias", "skip"}
    assert not any(word in name for name in matrices for word in ("norm", "bias", "A_log", ".D", "embedding"))
    assert "backbone.head.weight" in matrices


@pytest.mark.parametrize(("adam_eps", "share"), [(1e-8, 1e-4), (1e-15, 1)])
def test_a_tiny_gradient_trains_with_a_tinier_epsilon_of_adam(adam_eps, share):
    model = FullMatrix(**SMALL, learning_rate=0.1, weight_decay=0.0, adam_eps=adam_eps)
    weight, before = model.backbone.head.weight, model.backbone.head.weight.clone()
    weight.grad = torch.full_like(weight, 1e-12)
    model.configure_optimizers().step()
    torch.testing.assert_close(before - weight, torch.full_like(weight, 0.1 * share), rtol=0.01, atol=1e-7)


@pytest.mark.parametrize(
    ("architecture", "options", "key"),
    [
        (DeltaNet, {"heads": 3}, "model.heads"),
        (DeltaNet, {"heads": 0}, "model.heads"),
        (DeltaNet, {"head_size": 0}, "model.head_size"),
        (DeltaNet, {"conv_size": -1}, "model.conv_size"),
        (DeltaNet, {"gate_saturation": -1.0}, "model.gate_saturation"),
        (DeltaNet, {"beta_slope": 0.0}, "model.beta_slope"),
        (DeltaProduct, {"beta_slope": math.inf}, "model.beta_slope"),
        (DeltaNet, {"beta_stretch": -0.1}, "model.beta_stretch"),
        (DeltaNet, {"eigenvalue_range": (0, 2)}, "^model.eigenvalue_range"),
        (DeltaProduct, {"reflections": 0}, "model.reflections"),
        (DeltaProduct, {"qk_activation": "identity"}, "model.conv_size: must be 0 with model.qk_activation identity"),
        (Mamba, {"eigenvalue_range": (-2, 2)}, "^model.eigenvalue_range"),
        (Mamba, {"gate_saturation": -1.0}, "model.gate_saturation"),
        (Mamba, {"state_size": 0}, "model.state_size"),
        (Mamba, {"layers": 0}, "model.layers"),
        (Mamba, {"adam_eps": 0.0}, "model.adam_eps"),
        (MLSTM, {"eigenvalue_range": (0, 2)}, "^model.eigenvalue_range"),
        (MLSTM, {"heads": 3}, "model.heads"),
        (MLSTM, {"qkv_block": 0}, "model.qkv_block"),
        (DeltaNet, {"conv_init_std": 0.0}, "model.conv_init_std"),
        (MLSTM, {"expand": 0}, "model.expand"),
        (SLSTM, {"heads": 3}, "model.heads"),
        (SLSTM, {"layers": 0}, "model.layers"),
        (DeltaNet, {"mlp_width": 0}, "model.mlp_width"),
        (DeltaNet, {"mlp_width": 8, "channel_mixer": TokenShift}, "model.mlp_width"),
        (Hybrid, {"mixers": {}, "pattern": []}, "model.pattern"),
        (Hybrid, {**HYBRID, "pattern": ["delta", "gamma"]}, r"model.pattern: .* \(delta, attention\), got gamma"),
        (Hybrid, {**HYBRID, "pattern": ["delta"]}, "model.pattern, which lacks attention"),
        (Hybrid, only(DeltaNetMixer, heads=3), r"^model.mixers.one.heads: must divide model.width \(16\)"),
        (Hybrid, only(DeltaNetMixer, eigenvalue_range=(0, 2)), "^model.mixers.one.eigenvalue_range: must be"),
        (Hybrid, only(MLSTMMixer, heads=3), r"^model.mixers.one.heads: .* model.mixers.one.expand \* model.width \("),
        (
            Hybrid,
            only(DeltaNetMixer, qk_activation="identity"),
            "^model.mixers.one.conv_size: must be 0 with model.mixers.one.qk_activation identity",
        ),
        (DeltaNet, {"channel_mixer": partial(SLSTMMixer, heads=3)}, "^model.channel_mixer.heads: must divide model.w"),
        (DeltaNet, {"channel_mixer": partial(MLP, hidden=0)}, "^model.channel_mixer.hidden: must be at least 1, got 0"),
        (DeltaNet, {"channel_mixer": partial(SwiGLU, mlp_width=0)}, "^model.channel_mixer.mlp_width: must be at least"),
        (
            DeltaNet,
            {"qk_activation": "relu", "conv_size": 0},
            "^model.qk_activation: must be silu or identity, got r",
        ),
        (DeltaProduct, {"qk_activation": "SiLU"}, "^model.qk_activation: must be silu or identity, got SiLU"),
        (DeltaNet, {"norm": "RMS"}, "^model.norm: must be rms or layer, got RMS"),
        (Mamba, {"form": "fast"}, "^model.form: must be auto, recurrent, chunked or triton, got fast"),
        (Transformer, {"heads": 16}, "model.heads"),
        (Transformer, {"rotary_base": 1.0}, "model.rotary_base"),
        (Diagonal, {"eigenvalue_range": (-1, 0)}, "^model.eigenvalue_range"),
    ],
)
def test_bad_options_are_named(architecture, options, key):
    with pytest.raises(ValueError, match=key):
        architecture(**{**SMALL, **options})


def test_without_a_residual_path_a_block_is_its_last_mixer():
    options = {"vocab_size": 5, "width": 16, "layers": 1, "heads": 2}
    tokens = torch.randint(0, 5, (2, 7))
    for mlp in (None, 24):
        model = DeltaNet(**options, mlp_width=mlp, residual=False)
        [block], x = model.backbone.blocks, model.backbone.embedding(tokens)
        y, _ = block.mixer(block.mixer_norm(x, torch.zeros_like(x))[1])
        if mlp:
            y, _ = block.channel_mixer(block.channel_norm(torch.zeros_like(y), y)[1])
        logits = model.backbone.head(model.backbone.norm(torch.zeros_like(y), y)[1])
        torch.testing.assert_close(model(tokens)[0], logits)
