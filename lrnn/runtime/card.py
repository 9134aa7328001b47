"""Check, before the data are read, whether the kernels can run on the GPU."""

import logging

import torch

from lrnn.ops.common.cards import Card, card_of, triton_version
from lrnn.runtime.errors import ConfigError

log = logging.getLogger("lrnn")


def check_card(accelerator: object, form: object) -> None:
    """Refuse a GPU that the kernels can't run on, and warn where Triton is known to be wrong for it.

    Args:
        accelerator: The option `trainer.accelerator`.
        form: The option `model.form`, if the model has it.

    Raises:
        ConfigError: if kernels would run on a GPU of compute capability below 8.0.
    """
    if accelerator not in ("auto", "gpu", "cuda") or form in ("chunked", "recurrent") or not torch.cuda.is_available():
        return
    card = card_of(torch.device("cuda", 0))
    if card.capability < (8, 0):
        raise ConfigError(
            f"trainer.accelerator: {torch.cuda.get_device_name(0)} has compute capability "
            f"{card.capability[0]}.{card.capability[1]}, and the kernels need 8.0 or later; set --model.form=chunked, "
            "which is slower, or --trainer.accelerator=cpu"
        )
    if fault := fault_of_triton(card):
        log.warning(fault)


def fault_of_triton(card: Card) -> str | None:
    """Return what is known to be wrong with this version of Triton on the card, and what to do, in one line."""
    version = ".".join(map(str, triton_version()))
    if card.races:
        return (
            f"Triton {version} lets warps race on this GPU (triton-lang/triton#10590): the delta rule runs in "
            "flash-linear-attention's kernels, which avoid it; install Triton 3.8 for ours"
        )
    if card.hopper and version == "3.7.1":
        return (
            "Triton 3.7.1 has an open report of a wrong read of shared memory on this GPU (triton-lang/triton#11366); "
            "if a loss looks wrong, compare with --model.form=chunked, or install Triton 3.6.0"
        )
    return None
