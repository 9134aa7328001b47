"""Time the kernels on a GPU, forward and backward, replayed from a CUDA graph so that launching does not count."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.bench.row import Row, in_turn
from lrnn.ops import delta_product, delta_rule, qkv_convolution, slstm, swiglu, unit_heads
from lrnn.ops.common.cards import CARDS, pretend
from lrnn.ops.common.form import Form
from lrnn.ops.norm.operators import add_norm_op
from lrnn.ops.selective_scan.operators import selective_scan_backward, selective_scan_op
from lrnn.ops.short_convolution.operators import short_convolution_backward, short_convolution_op
from lrnn.ops.swiglu.operators import swiglu_op

ROUNDS = 3
EXPONENTIALS_PER_CLOCK = 16  # of one multiprocessor


def rows() -> Iterator[Row]:
    bandwidth = copy_bandwidth()
    yield Row("copy of 1 GiB, read and written", bandwidth / 1e9, None, "GB/s")
    for sizes in ((8, 2048, 2048, 16), (1024, 40, 256, 16)):
        for s in (1, 2):
            yield _selective_scan(*sizes, s, bandwidth)
    for sizes in ((1024, 40, 4, 32), (16, 2048, 8, 128), (6, 2048, 16, 128)):
        yield _delta_rule(*sizes)
        if sizes[1] >= 64:  # where the configurations differ
            yield _delta_rule(*sizes, card="A100")
    yield _gated_delta_rule(1024, 40, 4, 32)
    yield _gated_delta_rule(16, 2048, 16, 64)
    yield _slstm(1024, 40, 4, 32)
    yield _qkv_convolution(6, 2048, 16, 128)
    yield _short_convolution(6, 2048, 6144)
    yield _add_norm(6, 2048, 2048)
    yield _swiglu(6, 2048, 5632)


def copy_bandwidth() -> float:
    """Measure the bytes per second that a copy reads and writes."""
    x = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return 2 * 2**30 / (milliseconds(lambda: y.copy_(x)) / 1e3)


def matrix_product_rate() -> float:
    """Measure the operations per second of an 8192^3 product in bfloat16."""
    a, b = _randn(2, 8192, 8192).unbind()
    return 2 * 8192**3 / (milliseconds(lambda: a @ b) / 1e3)


def milliseconds(function: Callable[[], object]) -> float:
    from triton.testing import do_bench_cudagraph

    return do_bench_cudagraph(function, rep=20, return_mode="median")


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _selective_scan(batch: int, T: int, D: int, N: int, s: int, bandwidth: float) -> Row:
    """Compare with the least time in which the GPU can move its bytes and compute its exponentials."""
    u, dy = _randn(2, batch, T, D).unbind()
    dt, A = F.softplus(_randn(batch, T, D)), -torch.arange(1.0, N + 1, device="cuda").repeat(D, 1)
    B, C = _randn(2, batch, T, N).unbind()
    skip = torch.ones(D, device="cuda")
    inputs = u, dt, A, B, C, skip
    _, _, starts = selective_scan_op(*inputs, None, None, None, s, True)

    def both() -> None:
        selective_scan_op(*inputs, None, None, None, s, True)
        selective_scan_backward(*inputs, starts, dy, None, s, True)  # with softplus, as in Mamba

    numbers = (3 + 5) * u.numel()  # u, dt, y forward; u, dt, dy, du, ddt backward
    card = torch.cuda.get_device_properties(0)
    # card.clock_rate is in kHz
    exponentials = 2 * u.numel() * N / (EXPONENTIALS_PER_CLOCK * card.multi_processor_count * 1e3 * card.clock_rate)
    floor = 1e3 * max(2 * numbers / bandwidth, exponentials)
    name = f"selective scan [{1 - s}, 1], {batch} x {T}, {D} channels of {N} states, bf16: ours, floor"
    return Row(name, milliseconds(both), floor, "ms")


def _delta_rule(B: int, T: int, H: int, K: int, card: str | None = None) -> Row:
    """Compare with the faster of flash-linear-attention's two forms; ours in the configurations of `card`, if given."""
    from fla.ops.delta_rule import chunk_delta_rule, fused_recurrent_delta_rule

    q, k, v, do = _randn(4, B, T, H, K).unbind()
    k = F.normalize(k.float(), dim=-1).bfloat16()
    beta = 2 * torch.rand(B, T, H, device="cuda")
    inputs = [x.clone().requires_grad_() for x in (q, k, v, beta)]

    def both_ways(op: Callable[..., tuple[Tensor, Tensor]], **options: float) -> Callable[[], object]:
        return lambda: torch.autograd.grad(op(*inputs, **options)[0], inputs, do)

    forms = [both_ways(op, scale=1.0) for op in (chunk_delta_rule, fused_recurrent_delta_rule)]
    ours, best = both_ways(delta_rule), min(forms, key=milliseconds)
    name = ("chunk", "fused_recurrent")[forms.index(best)]
    with pretend(CARDS[card]) if card else nullcontext():
        times = in_turn(lambda: milliseconds(ours), lambda: milliseconds(best), ROUNDS)
    whose = f"ours as on an {card}" if card else "ours"
    return Row(f"delta rule, {B} x {T}, {H} heads of {K}, bf16: {whose}, flash-linear-attention's {name}", *times, "ms")


def _gated_delta_rule(B: int, T: int, H: int, K: int) -> Row:
    """Compare with the chunked form in PyTorch, not compiled.

    flash-linear-attention's kernels need Triton 3.7.1 on Hopper.
    """
    q, k, v, do = _randn(4, B, T, H, K).unbind()
    k = F.normalize(k.float(), dim=-1).bfloat16()
    beta, gate = 2 * torch.rand(B, T, H, device="cuda"), F.logsigmoid(4 + torch.randn(B, T, H, device="cuda"))
    inputs = [x.clone().requires_grad_() for x in (q, k, v, beta, gate)]

    def both_ways(form: Form) -> object:
        q, k, v, beta, gate = inputs
        o, _ = delta_product(q, k[:, :, None], v[:, :, None], beta[:, :, None], gate, form=form)  # one reflection each
        return torch.autograd.grad(o, inputs, do)

    forms: tuple[Form, ...] = ("triton", "chunked")
    ours, pytorch = (partial(milliseconds, partial(both_ways, form)) for form in forms)
    name = f"delta rule with a gate, {B} x {T}, {H} heads of {K}, bf16: ours, PyTorch's chunked form"
    return Row(name, *in_turn(ours, pytorch, ROUNDS), "ms")


def _slstm(B: int, T: int, H: int, D: int) -> Row:
    """Compare with the recurrence in PyTorch, not compiled."""
    x = torch.randn(B, T, H, 4, D, device="cuda", requires_grad=True)
    R = (D**-0.5 * torch.randn(H, D, 4 * D, device="cuda")).requires_grad_()
    dy = torch.randn(B, T, H, D, device="cuda")
    forms: tuple[Form, ...] = ("triton", "recurrent")
    ours, loop = (lambda form=form: torch.autograd.grad(slstm(x, R, form=form)[0], (x, R), dy) for form in forms)
    times = in_turn(lambda: milliseconds(ours), lambda: milliseconds(loop), ROUNDS)
    return Row(f"sLSTM, {B} x {T}, {H} heads of {D}, float32: ours, PyTorch's recurrence", *times, "ms")


def _qkv_convolution(B: int, T: int, H: int, K: int) -> Row:
    """Compare with PyTorch's convolution, SiLU and normalisation, not compiled."""
    x, weight = _randn(B, T, 3 * H * K).requires_grad_(), torch.randn(3 * H * K, 4, device="cuda", requires_grad=True)
    gradients = _randn(3, B, T, H, K).unbind()

    def ours() -> object:
        return torch.autograd.grad(qkv_convolution(x, weight, H)[0][:3], (x, weight), gradients)

    def pytorch() -> object:
        z = F.conv1d(F.pad(x.mT, (3, 0)), weight.bfloat16()[:, None], groups=3 * H * K)
        return torch.autograd.grad(unit_heads(F.silu(z).mT, H)[:3], (x, weight), gradients)

    times = in_turn(lambda: milliseconds(ours), lambda: milliseconds(pytorch), ROUNDS)
    return Row(f"convolution before the delta rule, {B} x {T}, {H} heads of {K}, bf16: ours, PyTorch's", *times, "ms")


def _short_convolution(B: int, T: int, C: int) -> Row:
    """Compare with PyTorch's convolution and SiLU, not compiled."""
    x, dy = _randn(2, B, T, C).unbind()
    weight = torch.randn(C, 4, device="cuda")
    x_conv, w_conv = x.mT.clone().requires_grad_(), weight.bfloat16()[:, None].clone().requires_grad_()

    def ours() -> None:
        short_convolution_op(x, weight, None)
        short_convolution_backward(x, weight, None, dy)

    def pytorch() -> None:
        y: Tensor = F.silu(F.conv1d(F.pad(x_conv, (3, 0)), w_conv, groups=C))
        torch.autograd.grad(y, (x_conv, w_conv), dy.mT)

    times = in_turn(lambda: milliseconds(ours), lambda: milliseconds(pytorch), ROUNDS)
    return Row(f"short convolution, {B} x {T} x {C}, bf16: ours, PyTorch's", *times, "ms")


def _add_norm(B: int, T: int, D: int) -> Row:
    eps, weight = 1e-6, torch.randn(D, device="cuda")
    (x, ds), (y, dh) = torch.randn(2, B, T, D, device="cuda"), _randn(2, B, T, D)

    def ours(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return add_norm_op(x, y, weight, eps, torch.bfloat16)

    def pytorch(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        s = x + y
        return s, F.rms_norm(s, weight.shape, weight, eps).bfloat16()

    name = f"sum and norm between blocks, {B} x {T} x {D}, float32 and bf16"
    return _beside_compiled(name, ours, pytorch, (x, y, weight), (ds, dh))


def _swiglu(B: int, T: int, D: int) -> Row:
    name = f"SwiGLU between its products, {B} x {T} x {D}, bf16"
    pytorch = partial(swiglu, form="chunked")
    return _beside_compiled(name, swiglu_op, pytorch, (_randn(B, T, 2 * D),), (_randn(B, T, D),))


def _beside_compiled(
    name: str,
    ours: Callable[..., Any],
    pytorch: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
) -> Row:
    """Compare forward and backward with the code that torch.compile makes of PyTorch's."""
    inputs = tuple(x.requires_grad_() for x in inputs)

    def both_ways(op: Callable[..., Any]) -> Callable[[], float]:
        return lambda: milliseconds(lambda: torch.autograd.grad(op(*inputs), inputs, gradients))

    compiled = torch.compile(pytorch, fullgraph=True, dynamic=False)
    times = in_turn(both_ways(ours), both_ways(compiled), ROUNDS)
    return Row(f"{name}: ours, compiled PyTorch's", *times, "ms")
