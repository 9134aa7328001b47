"""Recurrences as functions. This package knows only torch."""

from lrnn.ops.delta_rule import delta_rule
from lrnn.ops.eigenvalue_range import range_scale
from lrnn.ops.selective_scan import selective_scan

__all__ = ["delta_rule", "range_scale", "selective_scan"]
