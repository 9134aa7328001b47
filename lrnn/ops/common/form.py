"""Choose the form in which an op runs. The choice is made here, said once in the log, and recorded.

    recurrent   PyTorch, one token at a time: the specification
    chunked     PyTorch, many tokens at a time
    pytorch     PyTorch, in ops that treat every token alike: `recurrent` and `chunked` are the same code there
    triton      Triton kernels, on a GPU
    auto        triton on a GPU, chunked on a CPU; recurrent for a single token

`auto` never takes a slower form in silence. On a GPU, it is an error if the package that holds the kernels is missing;
if the kernels can't take the input, there is a warning. An op that lacks one of the forms in PyTorch runs the other.
`linear` and `head_loss` have no forms: they are matrix products, which PyTorch computes on any device.
"""

import functools
import importlib
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lrnn.ops.common.choice import check_choice

Form = Literal["auto", "recurrent", "chunked", "triton"]
Choice = Literal["recurrent", "chunked", "pytorch", "triton"]
FORMS = get_args(Form)
RECURRENCE: tuple[Choice, ...] = ("recurrent", "chunked")
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PACKAGES = {"triton": "triton", "fla": "flash-linear-attention"}  # module -> what to install
OTHERS = "use --model.form=auto or --model.form=chunked"

log = logging.getLogger("lrnn")
forms_in_use: dict[str, str] = {}  # op -> the form or the kernel that ran last, for the record of a run


class Kernel(NamedTuple):
    """One implementation of the form `triton`."""

    name: str  # in the log and in `forms_in_use`
    module: str  # holds its operators; imported only where the kernel runs


def choose_form(
    op: str,
    form: Form,
    tensors: Sequence[Tensor],
    *,
    pytorch: tuple[Choice, ...] = RECURRENCE,
    kernel: Kernel | None = None,
    obstacle: str | None = None,
) -> Choice:
    """Choose the form in which `op` runs on `tensors`, import its kernel, and record the choice.

    Args:
        op: name of the op, for messages.
        form: the form that the user asks for.
        tensors: inputs of the op. The first sets the dtype and has its tokens in dimension 1.
        pytorch: forms that the op has in PyTorch, the fastest last.
        kernel: the kernel that `triton` would run on these tensors, if the op has any.
        obstacle: property of this input that the kernel can't take, if any.

    Raises:
        ValueError: there is no such form, the tensors lie on several devices, or `triton` is asked for and can't run.
        ImportError: the kernel's package is not installed.
    """
    check_choice(f"{op}: form", form, FORMS)
    first = tensors[0]
    for x in tensors:
        if x.device != first.device:
            raise ValueError(f"{op}: all tensors must be on one device, got {first.device} and {x.device}")
    if form == "auto" and first.shape[1] == 1:
        return pytorch[0]
    device, dtype = first.device.type, first.dtype
    if dtype not in KERNEL_DTYPES:
        obstacle = f"{dtype}, only bfloat16, float16 and float32"
    if obstacle:
        obstacle = f"its kernels can't take {obstacle}"
    if kernel is None:
        obstacle = "it has no kernels"
    chosen = _choose(op, form, device, pytorch, obstacle)
    name, module = kernel if chosen == "triton" and kernel is not None else (chosen, None)
    warning = None
    if form == "auto" and device == "cuda" and obstacle:
        warning = f"{op} runs as {chosen} on a GPU, which is slower than a kernel: {obstacle}"
    _record(op, name, module, device, dtype, warning)
    return chosen


def _choose(op: str, form: Form, device: str, pytorch: tuple[Choice, ...], obstacle: str | None) -> Choice:
    """Choose the form for more than one token; `obstacle` says why kernels can't run on a GPU, if they can't."""
    if form == "auto":
        return "triton" if device == "cuda" and obstacle is None else pytorch[-1]
    if form != "triton":
        return form if form in pytorch else pytorch[-1]
    if device != "cuda":
        raise ValueError(f"{op}: form triton needs tensors on a GPU, got {device}; {OTHERS}")
    if obstacle:
        raise ValueError(f"{op}: {obstacle}; {OTHERS}")
    return "triton"


@torch.compiler.assume_constant_result  # a compiler calls this while it traces, with the values of that moment
def _record(op: str, name: str, module: str | None, device: str, dtype: torch.dtype, warning: str | None) -> None:
    forms_in_use[op] = name
    _import_and_announce(op, name, module, device, dtype, warning)


@functools.cache
def _import_and_announce(
    op: str, name: str, module: str | None, device: str, dtype: torch.dtype, warning: str | None
) -> None:
    if module is not None:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(f"{op}: {name} needs {_missing(error)}, or use --model.form=chunked") from error
    if warning:
        log.warning(warning)
    else:
        log.info("%s runs as %s on %s in %s", op, name, device, str(dtype).removeprefix("torch."))


def _missing(error: ImportError) -> str:
    """Name what could not be imported, and say how to install it."""
    module = (error.name or "").partition(".")[0]
    if module not in PACKAGES:
        return f"a module that can't be imported ({error}): repair it"
    return f"{PACKAGES[module]}, which is not installed: run pip install {PACKAGES[module]}"
