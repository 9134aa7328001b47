"""Time the chunked forms beside the recurrent ones on a CPU, forward and backward, at the sizes of parity."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.bench.row import Row, in_turn
from lrnn.ops import delta_rule, selective_scan


def rows() -> Iterator[Row]:
    B, T, H, K = 256, 40, 4, 32
    q, k, v = torch.randn(B, T, H, K), F.normalize(torch.randn(B, T, H, K), dim=-1), torch.randn(B, T, H, K)
    tensors = [x.requires_grad_() for x in (q, k, v, 2 * torch.rand(B, T, H))]
    yield _row(f"delta rule, {B} x {T}, {H} heads of {K}", delta_rule, tensors)
    for D, N in ((256, 16), (64, 4)):
        u, dt, A = torch.randn(B, T, D), F.softplus(torch.randn(B, T, D)), -4 * torch.rand(D, N)
        tensors = [x.requires_grad_() for x in (u, dt, A, torch.randn(B, T, N), torch.randn(B, T, N))]
        op = partial(selective_scan, eigenvalue_range=(-1, 1))
        yield _row(f"selective scan, {B} x {T}, {D} channels of {N} states", op, tensors)


def _row(name: str, op: Callable, tensors: Sequence[Tensor]) -> Row:
    def step(form: str) -> float:
        start = time.perf_counter()
        y, _ = op(*tensors, form=form)
        torch.autograd.grad(y.sum(), tensors)
        return 1e3 * (time.perf_counter() - start)

    step("chunked"), step("recurrent")
    ours, baseline = in_turn(lambda: step("chunked"), lambda: step("recurrent"), rounds=5)
    return Row(f"{name}, forward and backward: chunked, recurrent", ours, baseline, "ms")
