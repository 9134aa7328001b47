"""Remove a callback that has done its work."""

import lightning as L

from callbacks.contract import members_of


def retire(callback: L.Callback, trainer: L.Trainer) -> None:
    """Take the callback out of the trainer. A hook of the callback may call this.

    Lightning calls about ten hooks of every callback at every training step, each for some microseconds, and a step of
    a small model takes two milliseconds.
    """
    members = members_of(trainer)
    members.callbacks = [other for other in members.callbacks if other is not callback]
