"""Measure the speed of a run and its use of the GPU."""

import time
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from callbacks.contract import counted_data, members_of, trained_model
from callbacks.log_values import log_values

# Peak FLOP/s of dense bf16 matrix products with sums in float32, by CUDA's name of the GPU. Sources: NVIDIA's data
# sheets of A100, H100, H200, HGX B200 and L40S, whose figures with sparsity are halved, and the whitepaper of the Ada
# GPU architecture for the RTX 4090.
PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,  # SXM
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}


class Throughput(L.Callback):
    """Logs these numbers every `log_every_n_steps`, without waiting for the GPU at other steps:

    - `speed/tokens_per_second`: tokens per second of one GPU, padding included, over all time but validation
    - `speed/share_of_peak`: MFU, the share of the GPU's dense bf16 peak, if the GPU is in the table above; from the
      model's `flops_per_token(context)`, which is approximate
    - `speed/share_waiting`: share of the time spent waiting for data
    - `speed/memory_gib`: peak memory of tensors on this GPU, in GiB
    - `train/tokens`: tokens that the weights have learned from, for data whose training sequences all have `context`
      tokens
    - `train/gradient_norm`: norm of the gradient before clipping; not logged with compile.cuda_graphs, where hooks see
      no gradient
    """

    def __init__(self) -> None:
        self._step = 0
        self._tokens = 0
        self._waited = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the wait for data: Lightning calls its profiler before and after it fetches a batch."""
        profiler = members_of(trainer).profiler
        start, stop = profiler.start, profiler.stop

        def started(action: str) -> None:
            start(action)
            if action.endswith("train_dataloader_next"):
                self._waited -= time.perf_counter()

        def stopped(action: str) -> None:
            stop(action)
            if action.endswith("train_dataloader_next"):
                self._waited += time.perf_counter()

        vars(profiler).update(start=started, stop=stopped)
        self._step, self._since = trainer.global_step, None

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % members_of(trainer).log_every_n_steps == 0:
            clipped = [p for p in pl_module.parameters() if p.grad is not None and not hasattr(p, "unclipped")]
            norm = torch.nn.utils.get_total_norm([p.grad for p in clipped])  # type: ignore[misc]
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            pl_module.log("train/gradient_norm", norm / _loss_scale(trainer, optimizer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tokens += batch.inputs.numel()
        step = trainer.global_step
        if step == self._step:  # only gradients were accumulated
            return
        self._step = step
        if self._since is None:  # start after the first step, which compiles
            self._restart()
        elif step % members_of(trainer).log_every_n_steps == 0:
            self._log(trainer, pl_module, batch.inputs.shape[1], time.perf_counter() - self._since)
            self._restart()

    def _restart(self) -> None:
        self._tokens, self._waited, self._since = 0, 0.0, time.perf_counter()

    def _log(self, trainer: L.Trainer, model: L.LightningModule, context: int, seconds: float) -> None:
        rate = self._tokens / seconds
        values = {
            "speed/tokens_per_second": rate,
            "speed/share_waiting": self._waited / seconds,
        }
        data = counted_data(trainer)
        if hasattr(data, "context"):  # elsewhere the lengths may vary, or a curriculum may change them
            values["train/tokens"] = data.samples_consumed * data.context
        if model.device.type == "cuda":
            values["speed/memory_gib"] = torch.cuda.max_memory_allocated(model.device) / 2**30
            peak = PEAKS.get(torch.cuda.get_device_name(model.device))
            if peak:
                values["speed/share_of_peak"] = rate * trained_model(model).flops_per_token(context) / peak
        log_values(trainer, values)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._since is not None:
            self._since -= time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._since is not None:
            self._since += time.perf_counter()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for name in ("start", "stop"):
            vars(members_of(trainer).profiler).pop(name, None)


def _loss_scale(trainer: L.Trainer, optimizer: torch.optim.Optimizer) -> float:
    """Return the factor that float16's loss scaling has left in the gradient: a fused optimizer takes it out itself."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    left = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
    return scaler.get_scale() if scaler is not None and left else 1.0
