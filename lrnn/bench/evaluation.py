"""Measure evaluation: memory of perplexity by length, and multiple choice with a shared prefix.

On one GPU: python -m lrnn.bench --part=evaluation
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from lrnn.bench.row import Row, in_turn
from lrnn.bench.shapes import DELTA_NET_340M, Shape, random_delta_net
from lrnn.evaluate.likelihood import Continuation, score_continuations
from lrnn.evaluate.perplexity_scoring import score_perplexity
from lrnn.models import LanguageModel

SMALL = Shape(width=128, layers=2, heads=4, mlp_width=256, vocab_size=32_000, batch=1, length=0)
CHOICES, ROUNDS = 4, 3


def rows() -> Iterator[Row]:
    """Measure on a GPU, at 340M parameters in bfloat16."""
    model = random_delta_net(DELTA_NET_340M, tie_embeddings=True).eval()
    yield memory_row("DeltaNet 340M", model, 131_072, 16_384)
    yield choices_row("DeltaNet 340M", model, questions=64, prefix=512, choice=16)


def cpu_rows() -> Iterator[Row]:
    model = random_delta_net(SMALL, tie_embeddings=True).eval()
    yield choices_row("DeltaNet of 2 blocks", model, questions=4, prefix=256, choice=8)


def memory_row(name: str, model: LanguageModel, long: int, short: int) -> Row:
    """Compare the peak memory of scoring a long sequence with that of a short one."""

    def peak(length: int) -> float:
        torch.cuda.reset_peak_memory_stats()
        sequence = torch.randint(model.vocab_size, (1, length + 1))
        score_perplexity(model, sequence, [length], device=model.device, precision=_precision(model))
        return torch.cuda.max_memory_allocated() / 2**30

    peak(short)  # the first call compiles kernels, and tunes them in extra memory
    return Row(f"{name}, perplexity, peak memory: {long:,} tokens, {short:,} tokens", peak(long), peak(short), "GiB")


def choices_row(name: str, model: LanguageModel, questions: int, prefix: int, choice: int) -> Row:
    """Compare the time of four choices with their prefix read once, and with it read again for each of them."""
    prefixes = [torch.randint(model.vocab_size, (prefix,)).tolist() for _ in range(questions)]
    asked = [
        [Continuation(tokens, torch.randint(model.vocab_size, (choice,)).tolist()) for tokens in prefixes]
        for _ in range(CHOICES)
    ]
    score = partial(score_continuations, model, precision=_precision(model))

    def ours() -> None:
        score([one for choices in asked for one in choices])

    def baseline() -> None:
        for choices in asked:
            score(choices)

    for warm_up in (ours, baseline):
        warm_up()
    times = in_turn(lambda: _milliseconds(ours), lambda: _milliseconds(baseline), ROUNDS)
    what = f"{questions} questions of {prefix} tokens, {CHOICES} choices of {choice}"
    return Row(f"{name}, {what}: prefix read once, for each choice", *times, "ms")


def _precision(model: LanguageModel) -> partial[torch.autocast]:
    kind = model.device.type
    return partial(torch.autocast, kind, torch.bfloat16, enabled=kind == "cuda", cache_enabled=False)


def _milliseconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)  # its results are on the CPU: nothing is left to wait for
