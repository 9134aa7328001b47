"""Recurrences as functions. This package knows only torch."""

from lrnn.ops.delta_rule import delta_rule
from lrnn.ops.eigenvalue_range import range_scale
from lrnn.ops.form import Form
from lrnn.ops.selective_scan import selective_scan
from lrnn.ops.short_convolution import short_convolution

__all__ = ["Form", "delta_rule", "range_scale", "selective_scan", "short_convolution"]
