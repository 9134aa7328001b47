"""Time the spectrum callback on DeltaNet 340M, beside a training step: python -m lrnn.bench.spectrum

The callback runs every 100 steps. Its share of the time must stay below 1%.
"""

import contextlib
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger

import lrnn.runtime.kernel_cache  # noqa: F401  sets the cache's folders
from callbacks import Spectrum
from data import Batch
from lrnn.bench.shapes import DELTA_NET_340M, Shape, random_delta_net
from lrnn.bench.training import lightning_step, our_delta_net
from lrnn.runtime.command import command

TINY = Shape(width=32, layers=2, heads=2, mlp_width=64, vocab_size=50, batch=2, length=64)  # for a CPU
EVERY = 100  # steps


def bench_spectrum(out: str | None = None, repeats: int = 10) -> None:
    """Print how long one run of the callback takes, and its share of the time of 100 training steps.

    Args:
        out: File for the numbers, as JSON; none is written when absent.
        repeats: Number of runs of the callback that are timed.
    """
    if torch.cuda.is_available():
        step = lightning_step(our_delta_net(DELTA_NET_340M), DELTA_NET_340M).seconds
        model, shape, device = our_delta_net(DELTA_NET_340M), DELTA_NET_340M, torch.device("cuda")
    else:
        step, shape, device = None, TINY, torch.device("cpu")
        model = random_delta_net(TINY)
    seconds = _seconds_of_the_callback(model, shape, device, repeats)
    record: dict[str, Any] = {"device": torch.cuda.get_device_name() if step else "cpu", "callback_ms": 1e3 * seconds}
    if step is not None:
        record |= {"step_ms": 1e3 * step, "every": EVERY, "share": seconds / (EVERY * step + seconds)}
    print(json.dumps(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=1) + "\n")


def _seconds_of_the_callback(model: Any, shape: Shape, device: torch.device, repeats: int) -> float:
    callback = Spectrum(every=1)
    tokens = torch.randint(shape.vocab_size, (shape.batch, shape.length), device=device)
    batch = Batch(tokens, tokens)

    def forward_context() -> Any:
        return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()

    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        trainer: Any = SimpleNamespace(
            global_step=0,
            is_global_zero=True,
            loggers=[logger],
            precision_plugin=SimpleNamespace(forward_context=forward_context),
        )
        times = []
        for _ in range(1 + repeats):  # the first one compiles kernels
            trainer.global_step += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            callback.on_train_batch_end(trainer, model, None, batch, 0)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        logger.finalize("success")
    return sum(times[1:]) / repeats


def main() -> None:
    command(bench_spectrum, "lrnn.bench.spectrum")


if __name__ == "__main__":
    main()
