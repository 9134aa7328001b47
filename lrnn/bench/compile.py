"""Compile every kernel for other cards, and compare it with their limits: python -m lrnn.bench.compile

The ops run at the shapes of conf/ on a CPU, in the configurations that they choose for a card. Where they launch a
kernel, it is compiled for that card instead. ptxas reports registers, and bytes of registers spilled to memory.
"""

import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lrnn.ops.common.cards import CARDS, Card, pretend
from lrnn.ops.delta_rule.configurations import largest_head
from lrnn.ops.delta_rule.op import LONG, SHORT, choose_kernel
from lrnn.ops.delta_rule.operators_long import delta_rule_op as long_op
from lrnn.ops.delta_rule.operators_short import delta_rule_op as short_op
from lrnn.ops.norm.operators import add_norm_op, rms_norm_op
from lrnn.ops.qkv_convolution.operators import qkv_convolution_op
from lrnn.ops.selective_scan.operators import selective_scan_op
from lrnn.ops.short_convolution.operators import short_convolution_op
from lrnn.ops.swiglu.operators import swiglu_op

TENSOR_MEMORY = 512  # columns, on Blackwell
HEADS = 8  # as in conf/pretrain_340m.yaml; with one head, ptxas allocates other registers
# bytes that a thread may spill, in 16-bit dtypes; on other cards the short kernels spill more than 400
MOST_SPILLED = {"A100": 400}
MOST_SPILLED_ELSEWHERE = 1500
SERVED = ("A100", "A6000", "L40S", "H100", "B200", "RTX5090")
Size = Literal["all", "small"]
Op = Callable[[], object]


@dataclass
class Compiled:
    """What the compiler says of a kernel."""

    what: str  # op and shape
    kernel: str
    warps: int
    shared: int  # bytes
    tensor_memory: int  # columns
    registers: int
    spilled: int  # bytes of a thread
    error: str = ""

    def faults(self, name: str) -> list[str]:
        """Return what is above the limits of a card."""
        most = MOST_SPILLED.get(name, MOST_SPILLED_ELSEWHERE)
        found = [self.error] if self.error else []
        if self.shared > CARDS[name].shared:
            found.append(f"{self.shared} bytes of shared memory, the card has {CARDS[name].shared}")
        if self.tensor_memory > TENSOR_MEMORY:
            found.append(f"{self.tensor_memory} columns of tensor memory, the card has {TENSOR_MEMORY}")
        if self.spilled > most and "float32" not in self.what:
            found.append(f"{self.spilled} bytes of registers spilled, at most {most}")
        return found


def compile_kernels(cards: Sequence[str] = SERVED, size: Size = "all", jobs: int = os.cpu_count() or 1) -> None:
    """Compile the kernels, and fail if one is above a limit of a card.

    Args:
        cards: Cards to compile for, by their names in lrnn/ops/common/cards.py.
        size: Shapes: those of conf/, or small ones, for a test.
        jobs: Number of processes; each takes a card and a dtype.
    """
    if unknown := set(cards) - set(SERVED):
        sys.exit(f"error: cards: must be some of {', '.join(SERVED)}; got {', '.join(sorted(unknown))}")
    names = ("bfloat16",) if size == "small" else ("bfloat16", "float32")
    work = [(card, dtype, size) for dtype in names for card in cards]
    faults = 0
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        os.environ["TRITON_CACHE_DIR"] = folder
        print("card    what                                        kernel           warps  shared  registers  spilled")
        for (card, *_), found in zip(work, pool.map(_compile_for, work), strict=True):
            for kernel in found:
                wrong = kernel.faults(card)
                faults += len(wrong)
                print(_line(card, kernel), *(f"  TOO MUCH: {fault}" for fault in wrong), flush=True)
    print(f"{faults} above the limits")
    if faults:
        sys.exit(1)


def _line(card: str, kernel: Compiled) -> str:
    columns = f" +{kernel.tensor_memory} columns of tensor memory" if kernel.tensor_memory else ""
    return (
        f"{card:7} {kernel.what:43} {kernel.kernel:16} {kernel.warps:5} {kernel.shared:7,} {kernel.registers:10} "
        f"{kernel.spilled:8,}{columns}"
    )


def _compile_for(work: tuple[str, str, Size]) -> list[Compiled]:
    name, dtype, size = work
    torch.set_num_threads(1)
    found: list[Compiled] = []
    with pretend(CARDS[name]), _compiling_for(CARDS[name], found):
        for what, op in _ops(CARDS[name], getattr(torch, dtype), size):
            before = len(found)
            op()
            for kernel in found[before:]:
                kernel.what = f"{what}, {dtype}"
    return found


class _Compiler:
    """Triton's driver, for a card that is not there."""

    def __init__(self, card: Card):
        self.capability = 10 * card.capability[0] + card.capability[1]

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _compiling_for(card: Card, found: list[Compiled]) -> Iterator[None]:
    """Compile the kernels that are launched in this context, each once, rather than run them."""
    run, seen = JITFunction.run, set()

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        said = io.StringIO()
        with redirect_stdout(said):
            kernel = run(self, *args, grid=grid, warmup=True, **options)
        if kernel is not None and kernel.hash not in seen:
            seen.add(kernel.hash)
            found.append(_read(self, kernel.metadata, said.getvalue()))

    driver.set_active(_Compiler(card))
    knobs.nvidia.dump_ptxas_log, knobs.compilation.always_compile = True, True
    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run


def _read(function: JITFunction, metadata: Any, said: str) -> Compiled:
    registers, spills = (
        re.findall(r"Used (\d+) registers", said),
        re.findall(r"(\d+) bytes spill (?:stores|loads)", said),
    )
    return Compiled(
        what="",
        kernel=function.fn.__name__,
        warps=metadata.num_warps,
        shared=metadata.shared,
        tensor_memory=metadata.tmem_size or 0,
        registers=max(map(int, registers), default=0),
        spilled=max(map(int, spills), default=0),
    )


def _ops(card: Card, dtype: torch.dtype, size: Size) -> Iterator[tuple[str, Op]]:
    """Name the ops of the shipped configurations, at batch 1 and few tokens, which no kernel is compiled for."""
    if size == "small":
        yield from _delta_rules(card, dtype, [(2, 32)])
        yield from _blocks(dtype, [128])
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


def _delta_rules(card: Card, dtype: torch.dtype, shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, Op]]:
    for T, K in shapes:
        if dtype == torch.float32 and largest_head(card, dtype) < K:
            continue  # refused
        kernel = choose_kernel(T, K, K, dtype, card)
        if kernel in (LONG, SHORT):
            yield f"delta_rule {T} x {K}", partial(_delta_rule, dtype, T, K, kernel == LONG)
        yield f"qkv_convolution, heads of {K}", partial(_qkv_convolution, dtype, K)


def _blocks(dtype: torch.dtype, widths: Sequence[int]) -> Iterator[tuple[str, Op]]:
    for width in widths:
        yield f"add_norm {width}", partial(_norms, dtype, width)
        yield f"swiglu {width}", partial(_swiglu, dtype, width)


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
            _both_ways(short_op(q, k, v, beta, state)[:1])
        if T == 2:
            break


def _qkv_convolution(dtype: torch.dtype, K: int) -> None:
    _both_ways(qkv_convolution_op(_leaf(1, 2, 3 * HEADS * K).to(dtype), _leaf(3 * HEADS * K, 4), HEADS)[:3])


def _short_convolution(dtype: torch.dtype, C: int) -> None:
    _both_ways(short_convolution_op(_leaf(1, 2, C).to(dtype), _leaf(C, 4), _leaf(C)))


def _norms(dtype: torch.dtype, D: int) -> None:
    _both_ways(add_norm_op(_leaf(1, 2, D), _leaf(1, 2, D).to(dtype), _leaf(D), 1e-6, dtype))
    _both_ways(rms_norm_op(_leaf(1, 2, D).to(dtype), _leaf(D), 1e-6))


def _swiglu(dtype: torch.dtype, D: int) -> None:
    _both_ways(swiglu_op(_leaf(1, 2, 2 * D).to(dtype)))


def _scan(dtype: torch.dtype, D: int, N: int, s: int) -> None:
    u, dt, A, B, C = (
        _leaf(1, 70, D).to(dtype),
        F.softplus(_leaf(1, 70, D)),
        -_leaf(N, D).exp(),
        _leaf(1, 70, N),
        _leaf(1, 70, N),
    )
    _both_ways(selective_scan_op(u, dt, A, B, C, None, s, True)[:1])


def main() -> None:
    auto_cli(compile_kernels, prog="python -m lrnn.bench.compile")


if __name__ == "__main__":
    main()
