"""Save memory by computing activations twice: --trainer.callbacks+=callbacks.ActivationCheckpointing"""

from functools import partial

import lightning as L
from torch.utils.checkpoint import checkpoint

from callbacks.contract import trained_model


class ActivationCheckpointing(L.Callback):
    """Keeps only the input of each block in the forward pass and computes the block again in the backward pass.

    The blocks are those that the model names in `hot_paths()`. A step takes about a third more arithmetic. Blocks
    may be compiled or sharded as well.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for module, name in trained_model(pl_module).hot_paths():
            method = getattr(module, name)
            if module is not pl_module and not isinstance(method, partial):  # a partial was set by an earlier fit
                setattr(module, name, partial(checkpoint, method, use_reentrant=False, preserve_rng_state=False))
