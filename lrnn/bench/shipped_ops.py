"""The ops of the shipped configurations, forward and backward, at the shapes for which their kernels are compiled."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.cards import Card
from lrnn.ops.delta_rule.configurations import largest_head
from lrnn.ops.delta_rule.op import LONG, SHORT, choose_kernel
from lrnn.ops.delta_rule.operators_long import delta_rule_op as long_op
from lrnn.ops.delta_rule.operators_short import delta_rule_op as short_op
from lrnn.ops.norm.operators import add_norm_op, rms_norm_op
from lrnn.ops.qkv_convolution.operators import qkv_convolution_op
from lrnn.ops.selective_scan.operators import selective_scan_op
from lrnn.ops.short_convolution.operators import short_convolution_op
from lrnn.ops.slstm.op import obstacle_of
from lrnn.ops.slstm.operators import slstm_op
from lrnn.ops.swiglu.operators import swiglu_op

HEADS = 8  # as in conf/pretrain_340m.yaml; with one head, ptxas allocates other registers
Size = Literal["all", "small"]
Op = Callable[[], object]


def shipped_ops(card: Card, dtype: torch.dtype, size: Size) -> Iterator[tuple[str, Op]]:
    """Yield the name of each op and a function that runs it.

    The batch is 1 and the tokens are few, since few kernels are compiled for a batch or for a number of tokens.

    Args:
        card: the card, which decides which kernels of the delta rule run.
        dtype: dtype of the matrix products.
        size: all shapes of conf/, or small ones, for a test.
    """
    if size == "small":
        yield from _delta_rules(card, dtype, [(2, 32)])
        yield from _blocks(dtype, [128])
        yield from _slstms(card, dtype, [(4, 32)])
        return
    yield from _delta_rules(card, dtype, [(2, 32), (40, 32), (320, 32), (2, 64), (128, 64), (2, 128), (128, 128)])
    yield from _blocks(dtype, [128, 1024, 2048])
    for channels, states in ((2048, 16), (256, 16), (64, 4)):
        for s in (1, 2):
            yield (
                f"selective_scan {channels} x {states}, [{1 - s}, 1]",
                partial(_scan, dtype, channels, states, s),
            )
        yield f"short_convolution {channels}", partial(_short_convolution, dtype, channels)
    yield from _slstms(card, dtype, [(4, 32), (1, 64)])


def _delta_rules(card: Card, dtype: torch.dtype, shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, Op]]:
    for T, K in shapes:
        if dtype == torch.float32 and largest_head(card, dtype) < K:
            continue  # refused
        kernel = choose_kernel(T, K, K, dtype, card)
        if kernel in (LONG, SHORT):
            yield f"delta_rule {T} x {K}", partial(_delta_rule, dtype, T, K, kernel == LONG)
        if choose_kernel(T, K, K, dtype, card, gated=True) == SHORT:
            yield f"delta_rule with a gate, {T} x {K}", partial(_gated_delta_rule, dtype, T, K)
        yield f"qkv_convolution, heads of {K}", partial(_qkv_convolution, dtype, K)


def _blocks(dtype: torch.dtype, widths: Sequence[int]) -> Iterator[tuple[str, Op]]:
    for width in widths:
        yield f"add_norm {width}", partial(_norms, dtype, width)
        yield f"swiglu {width}", partial(_swiglu, dtype, width)


def _slstms(card: Card, dtype: torch.dtype, shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, Op]]:
    for heads, D in shapes:
        if obstacle_of(D, card) is None:  # else refused
            yield f"slstm, heads of {D}", partial(_slstm, dtype, heads, D)


def _leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def _both_ways(outputs: Tensor | Sequence[Tensor]) -> None:
    """Run the backward pass from the outputs that need one."""
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    needed = [x for x in outputs if x.requires_grad]
    torch.autograd.backward(needed, [torch.zeros_like(x) for x in needed])


def _delta_rule(dtype: torch.dtype, T: int, K: int, long: bool) -> None:
    for state in (None, torch.zeros(1, HEADS, K, K)):
        q, k, v = (_leaf(1, T, HEADS, K).to(dtype) for _ in range(3))
        beta = torch.rand(1, T, HEADS, requires_grad=True)
        if long:
            _both_ways(long_op(q, k, v, beta, state, True)[:1])
        else:
            _both_ways(short_op(q, k, v, beta, None, state)[:1])
        if T == 2:
            break


def _gated_delta_rule(dtype: torch.dtype, T: int, K: int) -> None:
    for state in (None, torch.zeros(1, HEADS, K, K)):
        q, k, v = (_leaf(1, T, HEADS, K).to(dtype) for _ in range(3))
        beta, log_gate = torch.rand(1, T, HEADS, requires_grad=True), _leaf(1, T, HEADS)
        _both_ways(short_op(q, k, v, beta, log_gate, state)[:1])


def _qkv_convolution(dtype: torch.dtype, K: int) -> None:
    _both_ways(qkv_convolution_op(_leaf(1, 2, 3 * HEADS * K).to(dtype), _leaf(3 * HEADS * K, 4), HEADS)[:3])


def _short_convolution(dtype: torch.dtype, C: int) -> None:
    _both_ways(short_convolution_op(_leaf(1, 2, C).to(dtype), _leaf(C, 4), _leaf(C)))


def _slstm(dtype: torch.dtype, H: int, D: int) -> None:
    for start in (None, torch.zeros(4, 1, H, D)):
        _both_ways(slstm_op(_leaf(1, 2, H, 4, D).to(dtype), _leaf(H, D, 4 * D), start, True)[:1])


def _norms(dtype: torch.dtype, D: int) -> None:
    _both_ways(add_norm_op(_leaf(1, 2, D), _leaf(1, 2, D).to(dtype), _leaf(D), 1e-6, dtype))
    _both_ways(rms_norm_op(_leaf(1, 2, D).to(dtype), _leaf(D), 1e-6))


def _swiglu(dtype: torch.dtype, D: int) -> None:
    _both_ways(swiglu_op(_leaf(1, 2, 2 * D).to(dtype)))


def _scan(dtype: torch.dtype, D: int, N: int, s: int) -> None:
    # masks, and many programs; full tiles, the configuration of long sequences, and few programs or many
    for batch, T in ((100, 70), (1, 256), (64, 256)):
        u, source, B, C = (_leaf(batch, T, size).to(dtype) for size in (D, D, N, N))
        A, bias = -_leaf(D, N).exp(), _leaf(D)
        dt = F.softplus(source + bias).to(dtype).detach()
        _both_ways(selective_scan_op(u, dt, A, B, C, _leaf(D), None, source, bias, s, True)[:1])
