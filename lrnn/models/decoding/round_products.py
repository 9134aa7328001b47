"""Hold the weights of the matrix products of a model in 16 bits."""

import torch
from torch import nn

from lrnn.models.language_model import LanguageModel
from lrnn.models.layers import Linear


def round_products(model: LanguageModel, dtype: torch.dtype) -> None:
    """Round the weights of the matrix products to a 16-bit dtype, in place.

    Autocast in that dtype rounds the same weights at every call, so the results stay the same. A step, which reads
    every weight once, becomes faster. A head that shares the embedding's weight gets a rounded copy of its own.
    """
    for module in model.modules():
        if isinstance(module, Linear) or module is model.backbone.head:
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
