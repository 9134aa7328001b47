"""The Triton kernels in Triton's interpreter, on the CPU, against the float64 specification.

This tests the logic of the kernels on any machine; test_on_gpu.py tests them on a GPU.
"""

import os
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

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":  # conftest.py sets it on machines without a GPU
    pytest.skip("test_on_gpu.py runs the kernels themselves", allow_module_level=True)

from lrnn.ops.common.cards import CARDS, pretend
from lrnn.ops.delta_product.op import with_kernel
from lrnn.ops.delta_rule.op import SHORT
from lrnn.ops.delta_rule.operators_long import delta_rule_op as long_delta_rule_op
from lrnn.ops.delta_rule.operators_short import delta_rule_op as short_delta_rule_op
from lrnn.ops.norm.operators import add_norm_op, rms_norm_op
from lrnn.ops.qkv_convolution.operators import qkv_convolution_op
from lrnn.ops.selective_scan import operators as selective_scan_operators
from lrnn.ops.selective_scan.operators import selective_scan_op
from lrnn.ops.short_convolution.operators import short_convolution_op
from lrnn.ops.slstm.operators import slstm_op
from lrnn.ops.swiglu.operators import swiglu_op

pytestmark = pytest.mark.slow


def compare(kernels, specification, tensors):
    """Compare outputs and gradients in float32 with those of the specification in float64."""
    exact = [x.double().requires_grad_() for x in tensors]
    want = specification(*exact)
    weights = [torch.randn_like(x) for x in want]
    want = [*want, *torch.autograd.grad(want, exact, weights)]
    inputs = [x.requires_grad_() for x in tensors]
    got = kernels(*inputs)
    got = [*got, *torch.autograd.grad(got, inputs, [w.float() for w in weights])]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize(("form", "T", "K", "V"), [("short", 21, 20, 16), ("short", 1, 16, 32), ("long", 130, 72, 80)])
def test_delta_rule(form, T, K, V):
    q, k = torch.randn(1, T, 2, K), F.normalize(torch.randn(1, T, 2, K), dim=-1)
    beta = 2 * torch.rand(1, T, 2)
    beta[:, ::3], beta[:, 1:2] = 2, 0
    k[:, 2::2] = k[:, :1]  # with repeated keys, I + A is far from the identity
    tensors = q, k, torch.randn(1, T, 2, V), beta, torch.randn(1, 2, K, V)

    def kernels(*x):
        return short_delta_rule_op(*x[:4], None, x[4]) if form == "short" else long_delta_rule_op(*x, True)[:2]

    compare(kernels, lambda *x: delta_rule(*x, form="recurrent"), tensors)


@pytest.mark.parametrize(("T", "n", "K", "V"), [(19, 1, 20, 16), (21, 2, 16, 8)])
def test_delta_product_with_a_gate(T, n, K, V):
    """A gate is exactly 0."""
    k = F.normalize(torch.randn(1, T, n, 2, K), dim=-1)
    k[:, 2::3] = k[:, :1]
    log_gate = -2 * torch.rand(1, T, 2)
    log_gate[:, T // 2] = -torch.inf
    q, v, beta = torch.randn(1, T, 2, K), torch.randn(1, T, n, 2, V), 2 * torch.rand(1, T, n, 2)
    tensors = q, k, v, beta, log_gate, torch.randn(1, 2, K, V)
    compare(partial(with_kernel, SHORT), lambda *x: delta_product(*x, form="recurrent"), tensors)


def test_delta_rule_in_the_configurations_of_an_a100():
    """A program of the forward pass takes a fourth of a head's columns, one of the backward pass an eighth of them."""
    T, K = 66, 128
    q, k = torch.randn(1, T, 1, K), F.normalize(torch.randn(1, T, 1, K), dim=-1)
    tensors = q, k, torch.randn(1, T, 1, K), 2 * torch.rand(1, T, 1), torch.randn(1, 1, K, K)
    with pretend(CARDS["A100"]):
        compare(lambda *x: long_delta_rule_op(*x, True)[:2], lambda *x: delta_rule(*x, form="recurrent"), tensors)


@pytest.mark.parametrize(
    ("rows", "D"), [(3, 5), (1000, 6), (2, 2048)]
)  # 512 programs; one row, and several rows, for each program
def test_add_norm(rows, D):
    tensors = torch.randn(1, rows, D), torch.randn(1, rows, D), torch.randn(D)
    compare(lambda x, y, w: add_norm_op(x, y, w, 1e-3, torch.float32), lambda x, y, w: add_norm(x, y, w, 1e-3), tensors)
    x, _, weight = tensors
    compare(
        lambda x, w: (rms_norm_op(x, w, 1e-3),), lambda x, w: (rms_norm(x, w, 1e-3),), (x.detach(), weight.detach())
    )


@pytest.mark.parametrize(("T", "D"), [(3, 5), (2, 1100)])  # one program for each token, and two
def test_swiglu(T, D):
    compare(lambda x: (swiglu_op(x),), lambda x: (swiglu(x),), (5 * torch.randn(2, T, 2 * D),))


@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize(
    ("T", "D", "N", "few", "programs"),
    [
        pytest.param(70, 17, 5, False, 1, id="two chunks"),
        pytest.param(3, 8, 20, False, 2, id="two launches"),
        pytest.param(128, 16, 4, True, 4, id="full tiles"),
        pytest.param(70, 16, 4, True, 100, id="more programs than items"),
        pytest.param(150, 33, 5, True, 5, id="more items than programs"),
    ],
)
def test_selective_scan(T, D, N, few, programs, s, monkeypatch):
    monkeypatch.setattr(selective_scan_operators, "_programs_at_once", lambda *_: programs)
    monkeypatch.setattr(selective_scan_operators, "_processors", lambda _: 132 if few else 0)
    dt = 4 * torch.randn(2, T, D)  # some step sizes are small
    rest = -4 * torch.rand(D, N), torch.randn(2, T, N), torch.randn(2, T, N), torch.randn(D), torch.randn(2, D, N)

    def kernels(u, dt, A, B, C, skip, h):
        return selective_scan_op(u, dt, A, B, C, skip, h, None, None, s, True)[:2]

    def kernels_with_bias(u, source, A, B, C, skip, h, bias):
        dt = F.softplus(source + bias).detach()
        return selective_scan_op(u, dt, A, B, C, skip, h, source, bias, s, True)[:2]

    def specification(u, dt, A, B, C, skip, h, bias=None):
        return selective_scan(u, dt, A, B, C, skip, (1 - s, 1), h, dt_bias=bias, form="recurrent")

    compare(kernels, specification, (torch.randn(2, T, D), F.softplus(dt), *rest))
    compare(kernels_with_bias, specification, (torch.randn(2, T, D), dt, *(x.detach() for x in rest), torch.randn(D)))


@pytest.mark.parametrize(("B", "T", "H", "D"), [(3, 7, 2, 5), (18, 5, 1, 20), (2, 1, 1, 16)])
def test_slstm(B, T, H, D):
    """No gradient leaves the final m."""
    x, R = torch.randn(B, T, H, 4, D), torch.randn(H, D, 4 * D)
    state = torch.stack([*torch.randn(2, B, H, D), 1 + torch.randn(B, H, D) ** 2, torch.randn(B, H, D)])

    def kernels(x, R, state=None):
        y, end = slstm_op(x, R, state, True)[:2]
        return y, end[:3]

    def specification(x, R, state=None):
        y, end = slstm(x, R, None if state is None else tuple(state), form="recurrent")
        return y, torch.stack(end[:3])

    compare(kernels, specification, (x, R, state))
    compare(kernels, specification, (x.detach(), R.detach()))
    m, want = slstm_op(x, R, state, False)[1][3], slstm(x, R, tuple(state))[1][3]
    torch.testing.assert_close(m, want)
    x = x.detach().bfloat16().requires_grad_()
    got, want = (torch.autograd.grad(y.float().sum(), x)[0] for y in (slstm_op(x, R, None, True)[0], slstm(x, R)[0]))
    torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


def test_sequences_beyond_32_bits_are_refused():
    """A kernel would address other memory."""
    x = torch.empty(1).expand(1, 2**21, 8, 128)
    rows, taps = x.flatten(2), torch.empty(1).expand(1024, 4)
    for op, inputs in (
        (short_convolution_op, (rows, taps, None)),
        (qkv_convolution_op, (rows, taps[:768], 2)),
        (short_delta_rule_op, (x, x, x, x[..., 0], None, None)),
        (long_delta_rule_op, (x, x, x, x[..., 0], None, False)),
    ):
        with pytest.raises(ValueError, match=r"takes up to 2,097,151 tokens of 1,024 numbers at once, got 2,097,152"):
            op(*inputs)


def test_vectors_with_gaps():
    """The skip weights, the scale of a norm and the bias of a convolution need not lie side by side in memory."""
    w, x, taps = torch.randn(5, 2)[:, 0], torch.randn(1, 3, 5), torch.randn(5, 2)
    u, dt, A, B = x, x.exp(), -torch.rand(5, 1), torch.randn(1, 3, 1)

    def kernels(u, w):
        y = selective_scan_op(u, dt, A, B, B, w, None, None, None, 2, True)[0]
        return y, add_norm_op(u, u, w, 1e-3, u.dtype)[1], rms_norm_op(u, w, 1e-3), short_convolution_op(u, taps, w)

    def specification(u, w):
        y = selective_scan(u, dt, A, B, B, w, (-1, 1), form="recurrent")[0]
        return y, add_norm(u, u, w, 1e-3)[1], rms_norm(u, w, 1e-3), short_convolution(u, taps, w)[0]

    compare(kernels, specification, (u, w))


@pytest.mark.parametrize(("T", "K", "has_bias"), [(2, 4, True), (40, 4, False), (5, 1, True)])
def test_short_convolution_of_half_a_projection(T, K, has_bias):
    x, weight, bias = torch.randn(2, T, 24), torch.randn(12, K), torch.randn(12)

    def kernels(x, weight, bias=None):
        return (short_convolution_op(x[..., :12], weight, bias),)

    def specification(x, weight, bias=None):
        return short_convolution(x[..., :12], weight, bias)[:1]

    compare(kernels, specification, (x, weight, bias) if has_bias else (x, weight))


@pytest.mark.parametrize(("T", "K", "H", "D"), [(2, 4, 2, 3), (40, 4, 2, 8), (5, 1, 3, 16), (3, 4, 4, 100)])
def test_qkv_convolution(T, K, H, D):
    """A program takes one, two and four heads."""
    tensors = torch.randn(2, T, 3 * H * D + 3), torch.randn(3 * H * D, K)

    def kernels(x, weight):
        q, k, v, _, rest = qkv_convolution_op(x, weight, H)
        return q, k, v, rest

    def specification(x, weight):
        (q, k, v, _), rest, _ = qkv_convolution(x, weight, H)
        return q, k, v, rest

    compare(kernels, specification, tensors)
    x = tensors[0].bfloat16()
    _, k, _, k_square, _ = qkv_convolution_op(x, tensors[1], H)
    torch.testing.assert_close(k_square, k.float().square().sum(-1))
