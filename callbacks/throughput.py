"""How fast a run is, and how much of the device it uses."""

import time
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor

# dense bf16 FLOP/s, by the name CUDA gives
PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


class Throughput(L.Callback):
    """Logs, every `log_every_n_steps` and without a wait for the GPU in between,

    - `speed/tokens_per_second`, of one GPU, with all that goes on but validation
    - `speed/share_of_peak`, of the dense bf16 peak of a GPU in the table above, by the model's own count of
      `flops_per_token(context)`, which is approximate
    - `speed/share_waiting`, of the time, for the data
    - `speed/memory_gib`, the most that tensors have taken on this GPU
    - `train/tokens`, seen by the weights, where all batches are of one length
    - `train/gradient_norm`, before clipping; not with compile.cuda_graphs, which shows gradients to nobody
    """

    def __init__(self) -> None:
        self._step = 0
        self._tokens = 0
        self._waited = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning tells its profiler when it fetches a batch."""
        profiler = trainer.profiler  # type: ignore[attr-defined]
        start, stop = profiler.start, profiler.stop

        def started(action: str) -> None:
            start(action)
            if action.endswith("train_dataloader_next"):
                self._waited -= time.perf_counter()

        def stopped(action: str) -> None:
            stop(action)
            if action.endswith("train_dataloader_next"):
                self._waited += time.perf_counter()

        profiler.start, profiler.stop = started, stopped
        self._step, self._since = trainer.global_step, None

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
            pl_module.log("train/gradient_norm", norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tokens += batch.inputs.numel()
        step = trainer.global_step
        if step == self._step:  # gradients accumulate
            return
        self._step = step
        if self._since is None:  # after the first step, which compiles
            self._restart()
        elif step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log(trainer, pl_module, batch.inputs.shape[1], time.perf_counter() - self._since)
            self._restart()

    def _restart(self) -> None:
        self._tokens, self._waited, self._since = 0, 0.0, time.perf_counter()

    def _log(self, trainer: L.Trainer, model: L.LightningModule, context: int, seconds: float) -> None:
        rate = self._tokens / seconds
        values = {
            "speed/tokens_per_second": rate,
            "speed/share_waiting": self._waited / seconds,
            "train/tokens": trainer.datamodule.samples_consumed * context,  # type: ignore[attr-defined]
        }
        if model.device.type == "cuda":
            values["speed/memory_gib"] = torch.cuda.max_memory_allocated(model.device) / 2**30
            peak = PEAKS.get(torch.cuda.get_device_name(model.device))
            if peak:
                values["speed/share_of_peak"] = rate * model.flops_per_token(context) / peak  # type: ignore[operator]
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._since is not None:
            self._since -= time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._since is not None:
            self._since += time.perf_counter()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for name in ("start", "stop"):
            vars(trainer.profiler).pop(name, None)  # type: ignore[attr-defined]
