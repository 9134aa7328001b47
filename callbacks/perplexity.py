"""Perplexity of the validation set."""

import math

import lightning as L
import torch


class Perplexity(L.Callback):
    """Logs `val/perplexity`, the exponential of the `val/loss` that the model logs, and prints it."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # the mean over all batches and ranks: collective, so every rank asks
        loss = float(trainer.callback_metrics["val/loss"])
        perplexity = math.exp(min(loss, 700.0))  # of a diverged model: large, but a number
        value = torch.tensor(perplexity, device=pl_module.device)  # where ranks can exchange it
        pl_module.log("val/perplexity", value, prog_bar=True, sync_dist=True)
        if trainer.is_global_zero and not trainer.sanity_checking:  # trainer.print alone speaks on every node
            trainer.print(f"step {trainer.global_step:,}: validation perplexity {perplexity:,.1f}")
