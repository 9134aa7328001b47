"""Two dtypes: that of values that need at least float32 in every precision, and that of matrix products."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Cast x to float32, or keep it in float64: for gates, norms, states and losses."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def dtype_of_products(x: Tensor) -> torch.dtype:
    """Return the dtype of matrix products with x: that of autocast if it is on, else that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
