"""Perplexity on the validation set."""

import math

import lightning as L
import torch


class Perplexity(L.Callback):
    """Logs `val/perplexity`, the exponential of the `val/loss` that the model logs, and prints it."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # the mean over all batches and ranks; every rank must ask, as computing it is collective
        loss = float(trainer.callback_metrics["val/loss"])
        perplexity = math.exp(min(loss, 700.0))  # keeps a diverged model's value finite
        value = torch.tensor(perplexity, device=pl_module.device)  # on the device, where ranks can exchange it
        pl_module.log("val/perplexity", value, prog_bar=True, sync_dist=True)
        if trainer.is_global_zero and not trainer.sanity_checking:  # trainer.print prints once on each node
            trainer.print(f"step {trainer.global_step:,}: validation perplexity {perplexity:,.1f}")
