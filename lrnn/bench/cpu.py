"""Time, on a CPU, the chunked forms beside the recurrent ones at the sizes of parity, and the sampling of words."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from data import GroupWordProblem
from lrnn.bench import evaluation
from lrnn.bench.row import Row, in_turn
from lrnn.ops import delta_rule, selective_scan


def rows() -> Iterator[Row]:
    B, T, H, K = 256, 40, 4, 32
    q, k, v = torch.randn(B, T, H, K), F.normalize(torch.randn(B, T, H, K), dim=-1), torch.randn(B, T, H, K)
    tensors = [x.requires_grad_() for x in (q, k, v, 2 * torch.rand(B, T, H))]
    yield _row(f"delta rule, {B} x {T}, {H} heads of {K}", delta_rule, tensors)
    for D, N in ((256, 16), (64, 4)):
        u, dt, A = torch.randn(B, T, D), F.softplus(torch.randn(B, T, D)), -4 * torch.rand(D, N)
        tensors = [x.requires_grad_() for x in (u, dt, A, torch.randn(B, T, N), torch.randn(B, T, N), torch.ones(D))]
        op = partial(selective_scan, eigenvalue_range=(-1, 1))
        yield _row(f"selective scan, {B} x {T}, {D} channels of {N} states", op, tensors)
    yield from evaluation.cpu_rows()
    yield _sampling_row()


def _row(name: str, op: Callable, tensors: Sequence[Tensor]) -> Row:
    def step(form: str) -> float:
        start = time.perf_counter()
        y, _ = op(*tensors, form=form)
        torch.autograd.grad(y.sum(), tensors)
        return 1e3 * (time.perf_counter() - start)

    step("chunked"), step("recurrent")
    ours, baseline = in_turn(lambda: step("chunked"), lambda: step("recurrent"), rounds=5)
    return Row(f"{name}, forward and backward: chunked, recurrent", ours, baseline, "ms")


def _sampling_row() -> Row:
    """Time training batches of a group word problem. There is no baseline."""
    task = GroupWordProblem("S5", train_lengths=(32, 32), batch_size=512)

    def rate(batch: int) -> float:
        start = time.perf_counter()
        samples = range(batch * task.batch_size, (batch + 1) * task.batch_size)
        inputs = task.training_batch(samples, torch.device("cpu")).inputs
        return inputs.numel() / (time.perf_counter() - start)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = [rate(batch) for batch in range(25)]
    torch.set_num_threads(threads)
    return Row("sampling words of 32 elements of S5, 512 at once, on one core", median(rates), None, "tokens/s")
