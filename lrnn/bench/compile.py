"""Compile every kernel for other cards, and compare it with their limits: python -m lrnn.bench.compile

The ops run at the shapes of conf/ on a CPU, in the configurations that they choose for a card. Where they launch a
kernel, it is compiled for that card instead. ptxas reports registers, and bytes of registers spilled to memory.
"""

import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lrnn.bench.shipped_ops import Size, shipped_ops
from lrnn.ops.common.cards import CARDS, Card, pretend
from lrnn.runtime.command import command

TENSOR_MEMORY = 512  # columns, on Blackwell
# bytes that a thread may spill, in 16-bit dtypes; on other cards the short kernels spill more than 400
MOST_SPILLED = {"A100": 400}
MOST_SPILLED_ELSEWHERE = 1500
SERVED = ("A100", "A6000", "L40S", "H100", "B200", "RTX5090")


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

    def faults(self, name: str) -> list[str]:
        """Return what is above the limits of a card."""
        most = MOST_SPILLED.get(name, MOST_SPILLED_ELSEWHERE)
        found = []
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
        for what, op in shipped_ops(CARDS[name], getattr(torch, dtype), size):
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


def main() -> None:
    command(compile_kernels, "lrnn.bench.compile")


if __name__ == "__main__":
    main()
