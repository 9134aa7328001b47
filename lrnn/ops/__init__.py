"""Recurrences as functions. This package knows only torch, and on a GPU Triton and flash-linear-attention."""

from lrnn.ops.delta_rule import delta_rule
from lrnn.ops.diagonal_scan import diagonal_scan
from lrnn.ops.eigenvalue_range import range_scale
from lrnn.ops.form import Form
from lrnn.ops.head_loss import head_loss
from lrnn.ops.linear import linear
from lrnn.ops.mlstm import mlstm
from lrnn.ops.norm import add_norm, rms_norm
from lrnn.ops.precision import at_least_float32, dtype_of_products
from lrnn.ops.qkv_convolution import qkv_convolution, unit_heads
from lrnn.ops.selective_scan import selective_scan
from lrnn.ops.short_convolution import short_convolution
from lrnn.ops.slstm import slstm
from lrnn.ops.swiglu import swiglu

__all__ = [
    "Form",
    "add_norm",
    "at_least_float32",
    "delta_rule",
    "diagonal_scan",
    "dtype_of_products",
    "head_loss",
    "linear",
    "mlstm",
    "qkv_convolution",
    "range_scale",
    "rms_norm",
    "selective_scan",
    "short_convolution",
    "slstm",
    "swiglu",
    "unit_heads",
]
