"""Start a run sooner: leave Python's garbage alone until the first step is taken."""

import gc
from typing import Any

import lightning as L

from callbacks.retire import retire


class CollectGarbage(L.Callback):
    """Turns Python's garbage collector on again after the first step.

    `python -m lrnn.fit` turns it off before it imports anything. Imports and the compiler make millions of objects, and
    nearly all of them stay. The collector would look through them again and again, for an eighth of the start.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        gc.enable()
        retire(self, trainer)

    def on_train_end(self, *_: Any) -> None:
        gc.enable()  # where no step was taken
