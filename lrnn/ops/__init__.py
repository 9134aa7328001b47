"""Recurrences, and the other ops of a block, as functions; one folder an op.

In each folder, op.py has the public function with its equations, and chooses the form. Beside it, where an op has them:
recurrent.py is the specification, chunked.py a faster form for a CPU, operators.py the torch.library operators around
the Triton kernels, and kernels.py the Triton code. The package needs torch alone; the kernels need a GPU and Triton, or
flash-linear-attention for large heads of the delta rule.
"""

from lrnn.ops.common.choice import check_choice
from lrnn.ops.common.eigenvalue_range import range_scale
from lrnn.ops.common.form import Form, forms_in_use
from lrnn.ops.common.precision import at_least_float32, dtype_of_products
from lrnn.ops.common.underflow import softplus
from lrnn.ops.delta_product.op import delta_product
from lrnn.ops.delta_rule.op import delta_rule, delta_rule_state
from lrnn.ops.diagonal_scan.op import diagonal_scan
from lrnn.ops.head_loss.op import IGNORE, head_loss
from lrnn.ops.head_loss.scores import head_scores
from lrnn.ops.linear.op import linear
from lrnn.ops.mlstm.op import mlstm
from lrnn.ops.norm.op import add_norm, rms_norm
from lrnn.ops.qkv_convolution.op import qkv_convolution, unit_heads
from lrnn.ops.selective_scan.op import selective_scan, step_sizes
from lrnn.ops.short_convolution.op import short_convolution
from lrnn.ops.slstm.op import slstm
from lrnn.ops.swiglu.op import swiglu

__all__ = [
    "IGNORE",
    "Form",
    "add_norm",
    "at_least_float32",
    "check_choice",
    "delta_product",
    "delta_rule",
    "delta_rule_state",
    "diagonal_scan",
    "dtype_of_products",
    "forms_in_use",
    "head_loss",
    "head_scores",
    "linear",
    "mlstm",
    "qkv_convolution",
    "range_scale",
    "rms_norm",
    "selective_scan",
    "short_convolution",
    "slstm",
    "softplus",
    "step_sizes",
    "swiglu",
    "unit_heads",
]
