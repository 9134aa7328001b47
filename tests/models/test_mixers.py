"""Single mixers and their parts compute what their definitions say."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import HalfPrecision

from lrnn.models import (
    AttentionMixer,
    DeltaNet,
    DeltaNetMixer,
    DeltaProductMixer,
    Diagonal,
    FullMatrix,
    Layer,
    Mamba,
    Transformer,
)
from lrnn.models.gate_saturation import saturation_of_decay, saturation_of_logits
from lrnn.models.layers import AddLayerNorm, ShortConvolution

SMALL = {"vocab_size": 5, "width": 16, "layers": 2}
RANGES = ((0, 1), (-1, 1))


def test_delta_net_doubles_beta_and_mamba_stretches_only_the_transition():
    """Same weights, other range: DeltaNet's write doubles too, Mamba's first output, before any transition, stays."""
    for architecture, options in ((DeltaNet, {"heads": 2}), (Mamba, {"state_size": 3})):
        narrow, wide = (architecture(eigenvalue_range=span, **SMALL, **options) for span in RANGES)
        wide.load_state_dict(narrow.state_dict())
        x = torch.randn(1, 2, 16)
        mixers = [model.backbone.blocks[0].mixer for model in (narrow, wide)]
        (_, S), (_, S_wide) = (mixer(x[:, :1])[1] for mixer in mixers)
        torch.testing.assert_close(S_wide, (2 if architecture is DeltaNet else 1) * S)
        assert not torch.allclose(mixers[0](x)[1][1], mixers[1](x)[1][1])


@pytest.mark.parametrize(
    "options", [{}, {"conv_size": 0, "qk_activation": "identity", "beta_slope": 3.0, "beta_stretch": 0.1}]
)
def test_one_reflection_is_delta_net(options):
    """The same weights, in the order of each, give the same outputs."""
    delta_net = DeltaNetMixer(Layer(16), heads=2, **options)
    product = DeltaProductMixer(Layer(16), heads=2, reflections=1, **options)
    product.load_state_dict(delta_net.state_dict())
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(product(x)[0], delta_net(x)[0])


@pytest.mark.parametrize(
    ("mixer", "options"), [(DeltaNetMixer, {}), (DeltaProductMixer, {"reflections": 2, "beta_bias": True})]
)
def test_a_slope_scales_what_beta_is_the_sigmoid_of(mixer, options):
    flat = mixer(Layer(16), heads=2, conv_size=0, **options)
    steep = mixer(Layer(16), heads=2, conv_size=0, beta_slope=4.0, **options)
    if flat_bias := options.get("beta_bias"):
        torch.nn.init.normal_(flat.beta_bias)
    steep.load_state_dict(flat.state_dict())
    rows = slice(-4 if flat_bias else -2, None)  # of the logits of beta
    with torch.no_grad():
        flat.in_proj.weight[rows] *= 4
        if flat_bias:
            flat.beta_bias *= 4
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(steep(x), flat(x))
    with torch.no_grad():
        torch.testing.assert_close(steep.advance(x), flat.advance(x))
    torch.testing.assert_close(steep.transitions(x).matrices(), flat.transitions(x).matrices())


@pytest.mark.parametrize("mixer", [DeltaNetMixer, DeltaProductMixer])
def test_a_stretched_beta_reaches_the_ends_of_its_range(mixer):
    """With betas of 0 and 2 alone, a transition is orthogonal. A plain sigmoid of the same logits comes near."""
    plain, stretched = (mixer(Layer(16), heads=2, conv_size=0, beta_stretch=d) for d in (0.0, 0.001))
    stretched.load_state_dict(plain.state_dict())
    rows = slice(-2 if mixer is DeltaNetMixer else -4, None)  # of the logits of beta
    with torch.no_grad():
        for one in (plain, stretched):
            one.in_proj.weight[rows] = 50 * torch.eye(16)[: -rows.start]
    x = torch.randn(1, 200, 16).sign() * (1 + torch.rand(1, 200, 16))
    near, exact = (one.double().transitions(x.double()).matrices() for one in (plain, stretched))
    torch.testing.assert_close(near, exact, rtol=0, atol=1e-3)
    torch.testing.assert_close(exact @ exact.mT, torch.eye(8).double().expand_as(exact), rtol=0, atol=1e-12)
    assert (mixer(Layer(16), heads=2).double().transitions(x.double()).beta.sub(1).abs() < 1).all()


def test_diagonal_transitions_reach_the_ends_of_their_range():
    h = torch.randn(1, 16)
    for span, ends in (((0, 1), (0.0, 1.0)), ((-1, 1), (-1.0, 1.0))):
        mixer = Diagonal(eigenvalue_range=span, **SMALL).backbone.blocks[0].mixer
        for bias, end in zip((-50.0, 50.0), ends, strict=True):
            torch.nn.init.constant_(mixer.transition_proj.bias, bias)
            torch.testing.assert_close(mixer(torch.zeros(1, 1, 16), (h,))[0][:, 0], end * h)


def test_full_matrix_against_its_definition():
    mixer = FullMatrix(**SMALL).backbone.blocks[0].mixer
    x, h = torch.randn(7, 16), torch.zeros(16)
    y, _ = mixer(x[None])
    for t in range(7):
        A, B = ((proj(x[t]) / 4).view(16, 16) for proj in (mixer.transition_proj, mixer.input_proj))
        h = A @ h + B @ x[t]
        torch.testing.assert_close(y[0, t], h)


def test_attention_sees_distances_not_positions():
    mixer = Transformer(**SMALL, heads=2).double().backbone.blocks[0].mixer
    x, y = torch.randn(2, 1, 2, 1, 8, dtype=torch.float64)

    def score(at, past):
        return (mixer._turn(x, at) * mixer._turn(y, past)).sum(-1)

    torch.testing.assert_close(score(9, 2), score(1007, 1000))
    assert not torch.allclose(score(9, 2), score(9, 3))


def test_attention_knows_positions_with_weights_in_bfloat16():
    """Lightning then sets the default dtype to bfloat16, which has 8 bits."""
    mixer, x = AttentionMixer(Layer(16), heads=2), torch.randn(1, 2, 5000, 8).bfloat16()
    with HalfPrecision("bf16-true").forward_context():
        turned = mixer._turn(x, 10_000)
    torch.testing.assert_close(turned, mixer._turn(x.double(), 10_000).bfloat16(), rtol=0.01, atol=0.02)


def test_short_convolution_is_torch_conv1d():
    conv = ShortConvolution(6, 4, bias=True)
    x = torch.randn(2, 11, 6)
    want = F.silu(F.conv1d(F.pad(x.mT, (3, 0)), conv.weight[:, None], conv.bias, groups=6)).mT
    torch.testing.assert_close(conv(x)[0], want)


def test_short_convolution_takes_states_of_its_own_shape_alone():
    conv, x = ShortConvolution(3, 4), torch.randn(2, 5, 3).bfloat16()
    y, state = conv(x, torch.zeros(2, 3, 3))
    assert y.dtype == state.dtype == torch.bfloat16
    for shape in ((2, 6, 3), (1, 3, 3), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"short_convolution: state must be \(2, 3, 3\), got"):
            conv(x, torch.zeros(shape))


def test_layer_norm_of_the_sum():
    x, y = torch.randn(2, 2, 5, 8)
    norm = AddLayerNorm(8, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    s, h = norm(x, y)
    torch.testing.assert_close(s, x + y)
    torch.testing.assert_close(h, F.layer_norm(x + y, (8,), norm.weight))


def test_gate_saturation_is_its_penalty():
    z = (4 * torch.randn(3, 7, dtype=torch.float64)).requires_grad_()
    dt, A = F.softplus(z).detach().requires_grad_(), -3 * torch.rand(7, 2, dtype=torch.float64) - 0.1

    def same(x, got, penalty):
        want = 0.3 * penalty.mean()
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(7 * got, x), torch.autograd.grad(7 * want, x))

    same(z, saturation_of_logits(z, 0.3), F.logsigmoid(z) + F.logsigmoid(-z))
    log_gate = dt[..., None] * A
    same(dt, saturation_of_decay(dt, A, 0.3), log_gate + torch.log(-torch.expm1(log_gate)))


def test_gate_saturation_ends_where_float32_is_on_the_end_point():
    z = torch.tensor([-19.0, 19.0], requires_grad=True)
    assert torch.sigmoid(z).tolist() == pytest.approx([0, 1], abs=1e-8)
    saturation_of_logits(z, 1.0).backward()
    assert z.grad.tolist() == [0, 0]
    dt = torch.tensor([1e-9, 19.0, 0.0], requires_grad=True)
    A = -torch.ones(3, 1)
    assert (2 * torch.exp(-dt) - 1).tolist() == [1, -1, 1]
    term = saturation_of_decay(dt, A, 1.0)
    term.backward()
    assert term.isfinite() and dt.grad.tolist() == [0, 0, 0]


def test_taps_start_at_the_deviation_asked_for():
    taps = DeltaNet(width=128, conv_init_std=0.02).backbone.blocks[0].mixer.conv.weight  # (384, 4)
    assert taps.std().item() == pytest.approx(0.02, rel=0.1) and taps.requires_grad


def test_rounded_keys_still_reflect():
    """beta = 2 and no values: an even number of equal tokens leaves the state as it was."""
    mixer = DeltaNetMixer(Layer(64), heads=2, eigenvalue_range=(-1, 1)).requires_grad_(False)
    mixer.in_proj.weight[128:192] = 0  # v
    mixer.in_proj.weight[192:] = 30.0  # beta
    x, S = torch.rand(1, 1, 64).expand(1, 512, 64), torch.randn(1, 2, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        conv_state = mixer(x[:, :3])[1][0]  # all tokens alike to the convolution too
        _, (_, after) = mixer(x, (conv_state, S))
    torch.testing.assert_close(after, S, rtol=0, atol=0.05)
