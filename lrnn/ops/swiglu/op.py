"""The gate of a SwiGLU MLP: SiLU(gate) * up.

Forms (lrnn/ops/common/form.py): PyTorch, and on a GPU one kernel forward and one backward (operators.py). The backward
kernel reads gate and up once; the code that torch.compile generates from PyTorch reads both once for each gradient.
"""

import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Form, Kernel, choose_form

KERNEL = Kernel("triton", "lrnn.ops.swiglu.operators")


def swiglu(gate_up: Tensor, *, form: Form = "auto") -> Tensor:
    """Compute SiLU(gate) * up, where one projection computes both.

    Args:
        gate_up: (batch, T, 2 D); the gate comes first.
        form: `auto`, `recurrent`, `chunked` (the same PyTorch code here) or `triton`.

    Returns:
        (batch, T, D) in the dtype of gate_up.
    """
    if choose_form("swiglu", form, [gate_up], pytorch=("pytorch",), kernel=KERNEL) == "triton":
        from lrnn.ops.swiglu.operators import swiglu_op

        return swiglu_op(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
