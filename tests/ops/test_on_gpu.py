"""The kernels on a GPU against the float64 specification on a CPU."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lrnn.ops import (
    add_norm,
    delta_product,
    delta_rule,
    qkv_convolution,
    rms_norm,
    selective_scan,
    short_convolution,
    slstm,
    swiglu,
)
from lrnn.ops.common.cards import CARDS, card_of, pretend
from lrnn.ops.common.form import forms_in_use

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("quick_flash_linear_attention")]

LENGTHS = (1, 2, 63, 64, 65, 256, 2048)
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # largest norm of an error, relative to that of the value


def relative_error(got, want):
    assert torch.isfinite(got).all()
    return ((got.cpu().double() - want).norm() / want.norm().clamp_min(1e-30)).item()


def compare(op, tensors, names, tolerance):
    """Compare outputs and gradients of op on the GPU with those in float64 on the CPU, on the same rounded inputs."""
    exact = [x.double().requires_grad_() for x in tensors]
    want = op(*exact, form="recurrent")
    weights = [torch.randn_like(x) for x in want]
    want = [*want, *torch.autograd.grad(want, exact, weights)]
    inputs = [x.cuda().requires_grad_() for x in tensors]
    got = op(*inputs, form="triton")
    grads = torch.autograd.grad(got, inputs, [w.to(g) for w, g in zip(weights, got, strict=True)])
    for name, a, b in zip(names, [*got, *grads], want, strict=True):
        assert relative_error(a.detach(), b.detach()) < tolerance, name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beta_is_2", [False, True])
@pytest.mark.parametrize(
    ("T", "K", "V"), [*((T, 32, 32) for T in LENGTHS), (100, 128, 64), (65, 16, 16), (65, 64, 128), (70, 96, 80)]
)
def test_delta_rule(T, K, V, beta_is_2, dtype):
    B, H = 2, 2
    q, k, v = torch.randn(B, T, H, K), F.normalize(torch.randn(B, T, H, K), dim=-1), torch.randn(B, T, H, V)
    beta = torch.full((B, T, H), 2.0) if beta_is_2 else 2 * torch.rand(B, T, H)
    q, k, v = ((x.to(dtype)) for x in (q * K**-0.5, k, v))
    tensors = q, k, v, beta, torch.randn(B, H, K, V)
    forgets = not beta_is_2 or T < 2048  # a state that only reflects keeps all its rounding errors
    tolerance = TOLERANCE[dtype] if forgets else 3 * TOLERANCE[dtype]
    compare(delta_rule, tensors, ("o", "S", "dq", "dk", "dv", "dbeta", "dS0"), tolerance)
    assert forms_in_use["delta_rule"] in ("triton (short kernels)", "triton (long kernels)")


@pytest.mark.parametrize(("B", "T", "H", "D"), [(3, 40, 4, 32), (70, 256, 1, 64), (2, 7, 2, 20)])
def test_slstm(B, T, H, D):
    x, R = torch.randn(B, T, H, 4, D), torch.randn(H, D, 4 * D) * D**-0.5
    state = torch.randn(B, H, D), torch.randn(B, H, D), 1 + torch.randn(B, H, D) ** 2, torch.randn(B, H, D)

    def op(x, R, *state, form):
        y, (h, c, n, _) = slstm(x, R, state or None, form=form)
        return y, h, c, n

    compare(op, (x, R, *state), ("y", "h", "c", "n", "dx", "dR", "dh0", "dc0", "dn0", "dm0"), 1e-4)
    compare(op, (x, R), ("y", "h", "c", "n", "dx", "dR"), 1e-4)
    assert forms_in_use["slstm"] == "triton"


@pytest.mark.parametrize(("T", "K"), [(2, 128), (64, 128), (40, 64)])
def test_short_kernels_with_large_heads(T, K):
    """They run with 8 warps, on the first tokens of every run."""
    q, k, v = torch.randn(2, T, 2, K), F.normalize(torch.randn(2, T, 2, K), dim=-1), torch.randn(2, T, 2, K)
    tensors = *(x.bfloat16() for x in (q * K**-0.5, k, v)), 2 * torch.rand(2, T, 2), torch.randn(2, 2, K, K)
    compare(delta_rule, tensors, ("o", "S", "dq", "dk", "dv", "dbeta", "dS0"), TOLERANCE[torch.bfloat16])
    assert forms_in_use["delta_rule"] == "triton (short kernels)"


@pytest.mark.parametrize("beta_is_2", [False, True])
@pytest.mark.parametrize(
    ("T", "K", "V"), [(2, 128, 128), (130, 128, 128), (2048, 128, 128), (300, 32, 32), (130, 64, 64), (65, 96, 64)]
)
def test_delta_rule_in_the_configurations_of_an_a100(T, K, V, beta_is_2):
    q, k, v = torch.randn(1, T, 2, K), F.normalize(torch.randn(1, T, 2, K), dim=-1), torch.randn(1, T, 2, V)
    beta = torch.full((1, T, 2), 2.0) if beta_is_2 else 2 * torch.rand(1, T, 2)
    tensors = *(x.bfloat16() for x in (q * K**-0.5, k, v)), beta, torch.randn(1, 2, K, V)
    tolerance = (3 if beta_is_2 and T == 2048 else 1) * TOLERANCE[torch.bfloat16]
    with pretend(CARDS["A100"]):
        compare(delta_rule, tensors, ("o", "S", "dq", "dk", "dv", "dbeta", "dS0"), tolerance)
    assert forms_in_use["delta_rule"] == "triton (long kernels)"


@pytest.mark.parametrize("card", ["H100", "A100"])
@pytest.mark.parametrize("op", ["short delta rule", "long delta rule", "scan", "convolution", "norm"])
def test_two_runs_agree_bit_by_bit(op, card):
    def random(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, device="cuda").to(dtype).requires_grad_()

    if op.endswith("delta rule"):
        T, K = (40, 32) if op.startswith("short") else (2048, 128)
        k = F.normalize(torch.randn(4, T, 4, K, device="cuda"), dim=-1).bfloat16().requires_grad_()
        beta = (2 * torch.rand(4, T, 4, device="cuda")).requires_grad_()
        inputs, function = (random(4, T, 4, K), k, random(4, T, 4, K), beta), delta_rule
    elif op == "scan":
        dt = random(2, 2048, 256)
        A, B, C = -torch.rand(256, 16, device="cuda"), random(2, 2048, 16), random(2, 2048, 16)
        skip, bias = random(256, dtype=torch.float32), random(256, dtype=torch.float32)
        inputs = random(2, 2048, 256), dt, A.requires_grad_(), B, C, skip, bias
        function = lambda *x: selective_scan(*x[:6], (-1, 1), dt_bias=x[6])  # noqa: E731
    elif op == "convolution":
        inputs, function = (random(2, 2048, 512), random(512, 4, dtype=torch.float32)), short_convolution
    else:
        inputs, function = (random(2, 2048, 512), random(2, 2048, 512), random(512)), partial(add_norm, eps=1e-6)
    with pretend(CARDS[card]):
        runs = []
        for _ in range(2):
            outputs = [y for y in function(*inputs) if y.requires_grad]
            runs.append([*outputs, *torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs])])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "K"), [(3, 32), (2, 20), (1, 64)])
def test_delta_product(n, K, dtype, gated):
    B, T, H = 2, 70, 2
    q, v = torch.randn(B, T, H, K).to(dtype), torch.randn(B, T, n, H, K).to(dtype)
    k = F.normalize(torch.randn(B, T, n, H, K), dim=-1).to(dtype)
    gate = (F.logsigmoid(torch.randn(B, T, H)),) if gated else ()
    tensors = q, k, v, torch.rand(B, T, n, H), *gate, torch.randn(B, H, K, K)

    def op(q, k, v, beta, *rest, form):
        log_gate, state = rest if gated else (None, *rest)
        return delta_product(q, k, v, beta, log_gate, state, form=form)

    compare(op, tensors, ("o", "S", "dq", "dk", "dv", "dbeta", *(["dgate"] if gated else []), "dS0"), TOLERANCE[dtype])
    kernel = "triton (short kernels)"
    if K == 64 and dtype == torch.bfloat16 and not gated:
        kernel = "triton (long kernels)"
    elif K == 64 and dtype == torch.bfloat16 and not card_of(torch.device("cuda", 0)).miscompiles_gates:
        kernel = "flash-linear-attention"
    assert forms_in_use["delta_product"] == kernel


def test_delta_rule_with_large_heads():
    q, k, v = torch.randn(3, 1, 100, 2, 256).bfloat16()
    k = F.normalize(k.float(), dim=-1).bfloat16()
    tensors = q, k, v, 2 * torch.rand(1, 100, 2), torch.randn(1, 2, 256, 256)
    compare(delta_rule, tensors, ("o", "S", "dq", "dk", "dv", "dbeta", "dS0"), TOLERANCE[torch.bfloat16])
    assert forms_in_use["delta_rule"] == "flash-linear-attention"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("eigenvalue_range", "has_bias"), [((0, 1), True), ((-1, 1), True), ((-1, 1), False)])
@pytest.mark.parametrize(("T", "D", "N"), [*((T, 64, 16) for T in LENGTHS), (65, 40, 5), (130, 33, 40), (20, 16, 256)])
def test_selective_scan(T, D, N, eigenvalue_range, has_bias, dtype):
    B = 2
    u, B_, C = torch.randn(B, T, D), torch.randn(B, T, N), torch.randn(B, T, N)
    dt = -torch.log(torch.rand(B, T, D))  # exp(dt A) is uniform on (0, 1) where A = -1
    A = -torch.exp(torch.randn(D, N))
    u, dt, B_, C = (x.to(dtype) for x in (u, dt, B_, C))
    tensors = u, dt, A, B_, C, torch.randn(D), torch.randn(B, D, N), *([torch.randn(D)] if has_bias else [])

    def op(u, dt, A, B, C, skip, h, bias=None, form="auto"):
        return selective_scan(u, dt, A, B, C, skip, eigenvalue_range, h, dt_bias=bias, form=form)

    names = ("y", "h", "du", "ddt", "dA", "dB", "dC", "dskip", "dh0", "dbias")
    compare(op, tensors, names[: 2 + len(tensors)], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "C", "K", "has_bias"), [(1, 24, 4, True), (65, 200, 4, False), (300, 64, 1, True)])
def test_short_convolution(T, C, K, has_bias, dtype):
    x, weight, bias = torch.randn(2, T, C).to(dtype), torch.randn(C, K), torch.randn(C)
    tensors = (x, weight, bias, torch.randn(2, K - 1, C).to(dtype)) if has_bias and K > 1 else (x, weight)

    def op(x, weight, bias=None, state=None, form="auto"):
        return (short_convolution(x, weight, bias, state, form=form)[0],)

    compare(op, tensors, ("y", "dx", "dweight", "dbias", "dstate")[: 1 + len(tensors)], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "D", "has_state"), [(2, 32, False), (65, 128, False), (100, 24, True)])
def test_qkv_convolution(T, D, has_state, dtype):
    x, weight = torch.randn(2, T, 6 * D + 2).to(dtype), torch.randn(6 * D, 4)
    tensors = (x, weight, torch.randn(2, 3, 6 * D).to(dtype)) if has_state else (x, weight)

    def op(x, weight, state=None, form="auto"):
        (q, k, v, _), rest, _ = qkv_convolution(x, weight, 2, state, form=form)
        return q, k, v, rest

    compare(op, tensors, ("q", "k", "v", "rest", "dx", "dweight", "dstate")[: 4 + len(tensors)], TOLERANCE[dtype])
    with torch.no_grad():
        (_, k, _, k_square), *_ = qkv_convolution(*(x.cuda() for x in tensors[:2]), 2)
    torch.testing.assert_close(k_square, k.float().square().sum(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "D"), [(1, 24), (300, 128), (700, 2048), (3, 5000)])
def test_add_norm(T, D, dtype):
    """The branch and the norm are in bf16; the residual stream stays in float32."""
    tensors = torch.randn(2, T, D), torch.randn(2, T, D).to(dtype), torch.randn(D)

    def op(x, y, weight, form="auto"):
        with torch.autocast("cuda", dtype, enabled=x.is_cuda and dtype != torch.float32):
            return add_norm(x, y, weight, 1e-6, form=form)

    compare(op, tensors, ("s", "h", "dx", "dy", "dweight"), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "H", "D"), [(2, 3, 24), (700, 4, 128)])
def test_rms_norm(T, H, D, dtype):
    def op(x, weight, form="auto"):
        return (rms_norm(x, weight, 1e-6, form=form),)

    compare(op, (torch.randn(2, T, H, D).to(dtype), torch.randn(D)), ("h", "dx", "dweight"), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "D"), [(2, 24), (300, 128), (70, 5632)])
def test_swiglu(T, D, dtype):
    def op(x, form="auto"):
        return (swiglu(x, form=form),)

    compare(op, ((5 * torch.randn(2, T, 2 * D)).to(dtype),), ("y", "dx"), TOLERANCE[dtype])


@torch.no_grad()
def test_a_million_tokens_stay_finite():
    T = 2**20
    k = F.normalize(torch.randn(1, T, 1, 16, device="cuda"), dim=-1).bfloat16()
    o, S = delta_rule(k, k, torch.randn_like(k), torch.full((1, T, 1), 2.0, device="cuda"))
    assert torch.isfinite(o).all() and torch.isfinite(S).all()
    u, B, C = (torch.randn(1, T, n, device="cuda", dtype=torch.bfloat16) for n in (32, 4, 4))
    dt, A = torch.full_like(u, 1e-9).float(), -torch.ones(32, 4, device="cuda")
    y, h = selective_scan(u, dt, A, B, C, torch.ones(32, device="cuda"), (-1, 1))
    assert torch.isfinite(y).all() and torch.isfinite(h).all()


def test_what_the_kernels_cannot_take_is_said():
    q = torch.randn(1, 2, 1, 256, device="cuda")
    with pytest.raises(ValueError, match=r"heads of 256 in torch\.float32, only up to 128"):
        delta_rule(q, q, q, q[..., 0], form="triton")
    with pytest.raises(ValueError, match="float64"):
        delta_rule(q.double(), q.double(), q.double(), q[..., 0].double(), form="triton")
    with pytest.raises(ValueError, match="one device"):
        delta_rule(q, q, q, q[..., 0].cpu())
