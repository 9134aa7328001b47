"""Time decoding on a GPU: ours, and `generate` of the exported model's own class, in turn."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrnn.bench.row import Row, in_turn
from lrnn.bench.shapes import DELTA_NET_340M, Shape, random_delta_net
from lrnn.export.__main__ import write_folder
from lrnn.export.delta_net import export_delta_net
from lrnn.models import DeltaNet
from lrnn.models.decoding import continue_prompts, round_products

BATCH, PROMPT, TOKENS, ROUNDS = 64, 128, 1024, 2


def rows() -> Iterator[Row]:
    yield generation_row("DeltaNet 340M", replace(DELTA_NET_340M, batch=BATCH, length=PROMPT), TOKENS)


def generation_row(name: str, shape: Shape, tokens: int) -> Row:
    """Compare tokens per second. Both read the prompts and decode greedily, with weights in bfloat16."""
    model = random_delta_net(shape, tie_embeddings=True).eval()
    prompts = torch.randint(1, shape.vocab_size, (shape.batch, shape.length), device=model.device)  # 0 is padding
    theirs = exported(model)
    round_products(model, torch.bfloat16)
    autocast = partial(torch.autocast, model.device.type, torch.bfloat16, cache_enabled=False)

    def ours(count: int) -> None:
        continue_prompts(model, prompts.tolist(), count, precision=autocast)

    def baseline(count: int) -> None:
        theirs.generate(prompts, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)

    def rate(decode: Any) -> float:
        return shape.batch * tokens / _seconds(partial(decode, tokens), prompts)

    for decode in (ours, baseline):
        decode(8)  # the first call compiles kernels
    rates = in_turn(lambda: rate(ours), lambda: rate(baseline), ROUNDS)
    return Row(
        f"{name} generates {shape.batch} x {tokens} tokens after {shape.length}: ours, exported model's generate",
        *rates,
        "tokens/s",
    )


def exported(model: DeltaNet) -> Any:
    """Return the model as `python -m lrnn.export` writes it and transformers loads it, on the same device."""
    import fla  # noqa: F401  registers the class
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), model, export_delta_net(model, folder), None, "5GB")
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return theirs.to(model.device).eval()


def _seconds(function: Any, on: Tensor) -> float:
    wait = torch.cuda.synchronize if on.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start
