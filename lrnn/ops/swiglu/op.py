"""The gate of an MLP: SiLU(gate) * up.

Forms (lrnn/ops/common/form.py): PyTorch's, and on a GPU one kernel each way (operators.py): what torch.compile
makes of PyTorch's reads gate and up once for the gradient of each.
"""

import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.form import Form, choose_form

KERNELS = ("lrnn.ops.swiglu.operators",)


def swiglu(gate_up: Tensor, *, form: Form = "auto") -> Tensor:
    """SiLU(gate) * up, where both come from one projection.

    Args:
        gate_up: (batch, T, 2 D), the gate first.
        form: `auto`, `chunked`, `recurrent` (here the same) or `triton`.

    Returns:
        (batch, T, D) in the dtype of gate_up.
    """
    if choose_form("swiglu", form, [gate_up], KERNELS) == "triton":
        from lrnn.ops.swiglu.operators import swiglu_op

        return swiglu_op(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
