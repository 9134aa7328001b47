"""Kernels are compiled for cards that are not there, and held against their limits."""

import os
import subprocess
import sys

import pytest

from lrnn.ops.common.cards import CARDS
from lrnn.ops.delta_rule.configurations import long_kernels

pytest.importorskip("triton")
from lrnn.bench.compile import MOST_SPILLED, SERVED, TENSOR_MEMORY, Compiled


@pytest.mark.parametrize("card", SERVED)
def test_what_is_above_the_limits_of_a_card(card):
    fits = Compiled("an op, bfloat16", "a_kernel", 4, CARDS[card].shared, TENSOR_MEMORY, 255, MOST_SPILLED["A100"])
    assert fits.faults(card) == []
    too_much = Compiled("an op, bfloat16", "a_kernel", 4, CARDS[card].shared + 1, TENSOR_MEMORY + 1, 255, 20_000)
    assert len(too_much.faults(card)) == 3


@pytest.mark.parametrize("card", SERVED)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_long_kernels_have_one_warp_group(card, size):
    """With two, the gradients of heads of 128 were wrong on an H100."""
    assert all(kernel["num_warps"] == 4 for kernel in long_kernels(CARDS[card], size).values())


@pytest.mark.slow
def test_kernels_compile_for_an_a100():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "lrnn.bench.compile", "--size=small", "--cards=[A100]", "--jobs=1"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.count("A100 ") >= 10 and said.endswith("0 above the limits\n")
