"""Write tables of tokens into the weights of a model, so that it computes what a construction asks for.

An embedding is SIZE times a unit vector, so that after the first norm the hidden state of token t is sqrt(width) times
unit vector t, and the columns of a projection are a table: what the projection gives for each token.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lrnn.models import LanguageModel

SIZE = 64.0  # of an embedding; the eps of a norm is nothing beside it
CLOSED, OPEN = -200.0, 20.0  # logits whose sigmoid is 0 and 1 in float32
LARGE = 32.0  # SiLU(32) = 32 in float32
NEGATIVE = 0.2  # SiLU reaches down to -0.278 only; keys with negative entries are scaled to this


def silu_inverse(y: Tensor) -> Tensor:
    """Return z with SiLU(z) = y, for y of at least -0.278, in float64."""
    low, high = torch.full_like(y, -1.278), y.clamp_min(0) + 1
    for _ in range(80):
        middle = (low + high) / 2
        above = middle * torch.sigmoid(middle) > y
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.where(y == 0, 0, (low + high) / 2)


def blank_model(architecture: type[LanguageModel], **options: Any) -> Any:
    """Make a model of zeros whose norms are the identity and whose embeddings are unit vectors times SIZE."""
    model: Any = architecture(**options)
    model.requires_grad_(False)
    norms = [module for module in model.modules() if isinstance(module, nn.RMSNorm | nn.LayerNorm)]
    for parameter in model.parameters():
        parameter.zero_()
    for norm in norms:
        norm.weight.fill_(1)
    model.backbone.embedding.weight.fill_diagonal_(SIZE)
    return model.eval()


def write_table(projection: nn.Linear, table: Tensor, width: int, scale: float | None = None) -> None:
    """Let a projection give table[:, t] (outputs, V) for token t."""
    scale = width**0.5 if scale is None else scale
    projection.weight[:, : table.shape[1]] = (table.double() / scale).float()


def write_delta_net(
    mixer: Any, keys: Tensor, values: Tensor, logits: Tensor, width: int, scale: float | None = None
) -> None:
    """Write keys (heads, V, n), the values (V, n) of all heads, and the logits of beta (V,); head i reads axis i."""
    heads, V, n = keys.shape
    queries = torch.eye(heads, n, dtype=torch.float64)[:, None].expand(-1, V, -1) * LARGE
    exact = ((keys == 0) | (keys == 1)).all(-1, keepdim=True)  # a unit vector without rounding
    keys = torch.where(exact, keys * LARGE, silu_inverse(NEGATIVE * keys))
    values = silu_inverse(values).expand(heads, -1, -1)
    rows = [x.transpose(1, 2).flatten(0, 1) for x in (queries, keys, values)]
    write_table(mixer.in_proj, torch.cat([*rows, logits.expand(heads, -1)]), width, scale)


def write_gated(mlp: Any, unit: int, sign: int, positive: bool, scale: float) -> None:
    """Let the gate of a unit be -CLOSED if the coordinate `sign` has this sign, and 0 otherwise."""
    mlp.gate_up.weight[unit, sign] = (-CLOSED if positive else CLOSED) / scale
