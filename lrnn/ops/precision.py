"""What is computed in float32 whatever the dtype of the layers around it."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Gates, norms, states and losses are computed in float32, or float64 where the model is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
