"""What is computed in float32 whatever the dtype of the layers around it, and what is not."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Gates, norms, states and losses are computed in float32, or float64 where the model is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def dtype_of_products(x: Tensor) -> torch.dtype:
    """Of the matrix products of x: autocast's, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
