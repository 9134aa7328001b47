"""Memory for time: what a block computes is computed again in the backward pass, --trainer.callbacks+=..."""

from functools import partial

import lightning as L
from torch.utils.checkpoint import checkpoint


class ActivationCheckpointing(L.Callback):
    """Keeps the input of every block that the model names in `hot_paths()`, and nothing from inside it.

    A third more arithmetic. Compiled or sharded blocks stay so.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for module, name in pl_module.hot_paths():  # type: ignore[operator]
            method = getattr(module, name)
            if module is not pl_module and not isinstance(method, partial):  # else it is from an earlier fit
                setattr(module, name, partial(checkpoint, method, use_reentrant=False, preserve_rng_state=False))
