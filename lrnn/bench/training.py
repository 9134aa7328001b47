"""Time training steps on one GPU: ours, and a bare loop over flash-linear-attention's own DeltaNet, in turn.

Ours are steps of `python -m lrnn.fit` and of Lightning's loop. The bare loop has the same shape, batch and precision.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks import CompileTraining
from data import Batch
from lrnn.bench.kernels import matrix_product_rate
from lrnn.bench.row import Row, in_turn
from lrnn.bench.shapes import (
    DELTA_NET_1B,
    DELTA_NET_340M,
    MAMBA_370M,
    PARITY,
    Shape,
    random_delta_net,
    random_mamba,
)
from lrnn.fit import fit
from lrnn.models import LanguageModel


@dataclass
class Timing:
    seconds: float  # of a step
    peak_bytes: int
    parameters: int


ROUNDS = 2


def parity_rows() -> Iterator[Row]:
    delta_net, mamba = (
        ("conf/paper/protocol.yaml", f"conf/paper/models/{name}.yaml") for name in ("delta_net", "mamba")
    )
    narrow = ("--model.eigenvalue_range=[0,1]",)
    ours, bare = in_turn(
        lambda: 1e3 * fit_step(delta_net).seconds, lambda: 1e3 * bare_loop_step(PARITY, 5, 40).seconds, ROUNDS
    )
    yield Row("paper-size parity, DeltaNet, a step: python -m lrnn.fit, bare loop", ours, bare, "ms")
    for name, config in (("DeltaNet", delta_net), ("Mamba", mamba)):
        wide, restricted = in_turn(
            lambda config=config: 1e3 * fit_step(config).seconds,  # type: ignore[misc]
            lambda config=config: 1e3 * fit_step(config, narrow).seconds,  # type: ignore[misc]
            ROUNDS,
        )
        yield Row(f"paper-size parity, {name}, a step: [-1, 1], [0, 1]", wide, restricted, "ms")


def language_model_rows() -> Iterator[Row]:
    product_rate = matrix_product_rate()
    yield Row("8192^3 matrix product, bf16", product_rate / 1e12, None, "TFLOP/s")
    for name, shape in (("DeltaNet 340M", DELTA_NET_340M), ("DeltaNet 1.3B", DELTA_NET_1B)):
        yield from _language_model(name, shape, product_rate)
        yield _ranges(name, our_delta_net, shape)
    yield _ranges("Mamba 370M, 16 x 2048", our_mamba, MAMBA_370M)


def _ranges(name: str, make: Callable[[Shape, tuple[int, int]], LanguageModel], shape: Shape) -> Row:
    """Time a model with both eigenvalue ranges, in turn."""

    def rate(eigenvalue_range: tuple[int, int]) -> float:
        return shape.batch * shape.length / lightning_step(make(shape, eigenvalue_range), shape).seconds

    wide, restricted = in_turn(lambda: rate((-1, 1)), lambda: rate((0, 1)), ROUNDS)
    return Row(f"{name}: [-1, 1], [0, 1]", wide, restricted, "tokens/s")


def _language_model(name: str, shape: Shape, product_rate: float) -> Iterator[Row]:
    timings = [(bare_loop_step(shape), lightning_step(our_delta_net(shape), shape)) for _ in range(ROUNDS)]
    bare, ours = (min((pair[i] for pair in timings), key=lambda timing: timing.seconds) for i in (0, 1))
    tokens = shape.batch * shape.length
    embedding = shape.vocab_size * shape.width

    def share(timing: Timing) -> float:
        """Return the share of the matrix product's rate, at 6 operations per parameter and token."""
        return 6 * (timing.parameters - embedding) * tokens / timing.seconds / product_rate

    yield Row(
        f"{name}, {shape.batch} x {shape.length}: ours, bare", tokens / ours.seconds, tokens / bare.seconds, "tokens/s"
    )
    yield Row(f"{name}, a step: ours, bare", 1e3 * ours.seconds, 1e3 * bare.seconds, "ms")
    yield Row(f"{name}, share of a matrix product's rate: ours, bare", share(ours), share(bare), "share")
    yield Row(f"{name}, peak memory: ours, bare", ours.peak_bytes / 2**30, bare.peak_bytes / 2**30, "GiB")


class _Stopwatch(L.Callback):
    """Measures the mean time of `steps` steps after the first `warmup` steps."""

    def __init__(self, warmup: int, steps: int):
        self.warmup, self.steps = warmup, steps
        self.seconds = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.warmup:
            torch.cuda.synchronize()
            self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == self.warmup + self.steps:
            torch.cuda.synchronize()
            self.seconds = (time.perf_counter() - self._start) / self.steps


def fit_step(configs: Sequence[str], options: tuple[str, ...] = (), warmup: int = 20, steps: int = 1000) -> Timing:
    """Time a training step of `python -m lrnn.fit --config ...`, with sampling, schedule and logging."""
    _start_afresh()
    watch = _Stopwatch(warmup, steps)
    with tempfile.TemporaryDirectory() as folder:
        cli = fit(
            [
                *(f"--config={config}" for config in configs),
                f"--run_dir={folder}/run",
                f"--trainer.max_steps={warmup + steps}",
                "--trainer.limit_val_batches=0",
                "--trainer.callbacks=[]",
                "--trainer.enable_model_summary=false",
                "--trainer.enable_progress_bar=false",
                *options,
            ],
            [watch],
        )
    return _timing(watch.seconds, cli.model)


def lightning_step(model: LanguageModel, shape: Shape, warmup: int = 4, steps: int = 12) -> Timing:
    """Time a training step of Lightning's loop over a language model."""
    watch = _Stopwatch(warmup, steps)
    trainer = L.Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=warmup + steps,
        callbacks=[CompileTraining(), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, _Repeated(_random_batch(shape)))
    return _timing(watch.seconds, model)


def our_delta_net(shape: Shape, eigenvalue_range: tuple[int, int] = (-1, 1)) -> LanguageModel:
    _start_afresh()
    return random_delta_net(shape, eigenvalue_range=eigenvalue_range, learning_rate=3e-4)


def our_mamba(shape: Shape, eigenvalue_range: tuple[int, int]) -> LanguageModel:
    _start_afresh()
    return random_mamba(shape, eigenvalue_range=eigenvalue_range, learning_rate=3e-4)


def bare_loop_step(shape: Shape, warmup: int = 4, steps: int = 12) -> Timing:
    """Time a training step of a plain loop over flash-linear-attention's DeltaNet, in autocast and not compiled."""
    from fla.models import DeltaNetConfig, DeltaNetForCausalLM

    _start_afresh()
    config = DeltaNetConfig(
        hidden_size=shape.width,
        num_heads=shape.heads,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.mlp_width,
        vocab_size=shape.vocab_size,
        allow_neg_eigval=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("cuda"):
        model = DeltaNetForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, fused=True)
    tokens, _ = _random_batch(shape)
    for step in range(warmup + steps):
        if step == warmup:
            torch.cuda.synchronize()
            start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    return _timing((time.perf_counter() - start) / steps, model)


class _Repeated:
    """Data loader that gives the same batch again and again."""

    def __init__(self, batch: Batch):
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch


def _random_batch(shape: Shape) -> Batch:
    tokens: Tensor = torch.randint(shape.vocab_size, (shape.batch, shape.length + 1), device="cuda")
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def _start_afresh() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def _timing(seconds: float, model: torch.nn.Module) -> Timing:
    parameters = sum(p.numel() for p in model.parameters())
    return Timing(seconds, torch.cuda.max_memory_allocated(), parameters)
