"""Which form of an op runs. The choice is made here, at the first call, and said once.

    recurrent   PyTorch, one token at a time: the specification
    chunked     PyTorch, many tokens at a time
    triton      Triton kernels, on a GPU
    auto        triton on a GPU, chunked on a CPU; recurrent for a single token

`auto` never takes a slower form in silence: where a GPU can't run the kernels for lack of a package that is an
error, and where the kernels can't take the input there is a warning.
"""

import functools
import importlib
import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Form = Literal["auto", "recurrent", "chunked", "triton"]
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

log = logging.getLogger("lrnn")
forms_in_use: dict[str, str] = {}  # op -> form, for the record of a run


def choose_form(
    op: str, form: Form, tensors: Sequence[Tensor], modules: tuple[str, ...], obstacle: str | None = None
) -> Form:
    """The form that `op` runs in on `tensors`, the first of which sets the dtype and has the tokens in dimension 1.

    `modules` hold the kernels; `obstacle`, if any, says what input of this call they can't take.
    """
    first = tensors[0]
    for x in tensors:
        if x.device != first.device:
            raise ValueError(f"{op}: all tensors must be on one device, got {first.device} and {x.device}")
    if form == "auto" and first.shape[1] == 1:
        return "recurrent"
    device, dtype = first.device.type, first.dtype
    if dtype not in KERNEL_DTYPES:
        obstacle = f"{dtype}, only bfloat16, float16 and float32"
    if obstacle:
        obstacle = f"its kernels can't take {obstacle}"
    if not modules:
        obstacle = "it has no kernels"
    chosen = form
    if form == "auto":
        chosen = "triton" if device == "cuda" and obstacle is None else "chunked"
    if chosen == "triton":
        if device != "cuda":
            raise ValueError(f"{op}: form triton needs tensors on a GPU, got {device}; set form to auto or chunked")
        if obstacle:
            raise ValueError(f"{op}: {obstacle}; set form to auto or chunked")
    if not torch.compiler.is_compiling():  # a compiler calls what has been called before, and can't follow this
        forms_in_use[op] = chosen
        _prepare(op, chosen, device, dtype, modules, obstacle if form == "auto" and device == "cuda" else None)
    return chosen


@functools.cache
def _prepare(
    op: str, chosen: Form, device: str, dtype: torch.dtype, modules: tuple[str, ...], obstacle: str | None
) -> None:
    """Import the kernels, and say what was chosen."""
    if chosen == "triton":
        try:
            for module in modules:
                importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"{op}: its kernels need {error.name}, which is not installed: pip install flash-linear-attention, "
                "or set form to chunked"
            ) from error
    if obstacle:
        log.warning("%s runs in its slower form, chunked: %s", op, obstacle)
    else:
        log.info("%s runs in its form %s on %s in %s", op, chosen, device, str(dtype).removeprefix("torch."))
