"""DeltaNet and DeltaProduct, exported and loaded by flash-linear-attention: the logits are those of the checkpoint."""

import pytest
import torch
import torch.nn.functional as F

from lrnn.models import DeltaNet, DeltaProduct

pytestmark = pytest.mark.slow
RANGES = ((0, 1), (-1, 1))


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
@pytest.mark.filterwarnings("ignore")  # warnings of flash-linear-attention without a GPU
def test_delta_net_in_flash_linear_attention(
    eigenvalue_range, conv_size, fla_without_triton, random_model, load, largest_difference, exported
):
    options = {"heads": 2, "mlp_width": 48, "norm_eps": 1e-3, "tie_embeddings": conv_size == 4}
    head_size = 24 if conv_size else None
    options |= {"qk_activation": "silu" if conv_size or eigenvalue_range[0] else "identity"}
    options |= {"beta_slope": 3.0 if conv_size else 1.0}
    model = random_model(
        DeltaNet, eigenvalue_range=eigenvalue_range, head_size=head_size, conv_size=conv_size, **options
    )
    theirs = load(exported(model), dtype=torch.float32)
    assert type(theirs).__module__.startswith("fla.")
    tokens = torch.randint(50, (2, 90))
    with torch.no_grad():
        assert largest_difference(theirs(tokens, use_cache=False).logits, model(tokens)[0]) <= 1e-4


@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore")  # warnings of flash-linear-attention without a GPU
def test_delta_net_in_flash_linear_attention_in_bfloat16(
    eigenvalue_range, fla_without_triton, counting, taught_model, load, largest_difference, exported
):
    model = taught_model(DeltaNet, eigenvalue_range=eigenvalue_range, heads=2, mlp_width=128)
    theirs = load(exported(model))
    assert theirs.dtype == torch.bfloat16
    tokens = counting(90)
    with torch.no_grad():
        assert largest_difference(theirs(tokens, use_cache=False).logits, model(tokens)[0]) <= 2e-2


@pytest.mark.gpu
@pytest.mark.timeout(600)  # flash-linear-attention tunes its kernels for minutes
@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore")  # warnings of flash-linear-attention and its compilers
def test_delta_net_in_flash_linear_attention_on_a_gpu(
    eigenvalue_range, counting, taught_model, load, largest_difference, exported
):
    """fla's kernel for short sequences runs in float32, its kernel for long ones in bfloat16, its only dtype."""
    import fla  # noqa: F401  makes its classes known to transformers

    model = taught_model(DeltaNet, eigenvalue_range=eigenvalue_range, heads=2, mlp_width=128)
    folder = exported(model)
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


@pytest.mark.parametrize("forget_gate", [True, False])
@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore")  # warnings of flash-linear-attention without a GPU
def test_delta_product_in_flash_linear_attention(
    eigenvalue_range, forget_gate, fla_without_triton, random_model, load, largest_difference, exported
):
    options = {"eigenvalue_range": eigenvalue_range, "forget_gate": forget_gate, "conv_size": 4 if forget_gate else 0}
    options |= {"heads": 2, "head_size": 12, "reflections": 3, "mlp_width": 48, "norm_eps": 1e-3}
    options |= {"beta_slope": 3.0 if forget_gate else 1.0}
    model = random_model(DeltaProduct, tie_embeddings=forget_gate, **options)
    theirs = load(exported(model), dtype=torch.float32)
    assert type(theirs).__module__.startswith("fla.models.gated_deltaproduct")
    tokens = torch.randint(50, (2, 90))
    with torch.no_grad():
        assert largest_difference(theirs(tokens, use_cache=False).logits, model(tokens)[0]) <= 1e-4


@pytest.mark.gpu
@pytest.mark.timeout(600)  # flash-linear-attention tunes its kernels for minutes
@pytest.mark.parametrize("forget_gate", [True, False])
@pytest.mark.filterwarnings("ignore")  # warnings of flash-linear-attention and its compilers
def test_delta_product_in_flash_linear_attention_on_a_gpu(
    forget_gate, counting, taught_model, load, largest_difference, exported
):
    """fla's kernel for short sequences runs in float32, its kernel for long ones in bfloat16."""
    import fla  # noqa: F401  makes its classes known to transformers

    model = taught_model(DeltaProduct, heads=2, reflections=2, mlp_width=128, forget_gate=forget_gate)
    folder = exported(model)
    tokens = counting(300)
    with torch.no_grad():
        want = model(tokens)[0].cuda()
        tokens = tokens.cuda()
        short = load(folder, dtype=torch.float32).cuda()(tokens[:, :60]).logits
        assert largest_difference(short, want[:, :60]) <= 1e-4
        assert largest_difference(load(folder).cuda()(tokens).logits, want) <= 2e-2
