"""Cross-entropy of the head's logits, computed for a slice of the tokens at a time.

    z = x W^T        loss = mean over scored tokens of logsumexp(z) - z_label
    dz = softmax(z) - onehot(label)        dx = dz W        dW = dz^T x        both / scored

The logits of a large vocabulary are the largest tensor of a training step: for 32,768 tokens and a vocabulary of 32,000
they take 4.2 GB in float32, and their softmax takes as much again. So the forward pass computes the logits of some
thousand tokens at a time, computes their shares of dx and dW at once, and discards the logits. It keeps dx and dW for
the backward pass, which are as large as x and W.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lrnn.ops.common.precision import at_least_float32, dtype_of_products

IGNORE = -100
LOGITS = 2**27  # in a slice: 4,096 tokens with a vocabulary of 32,000, half a GB in float32


def head_loss(x: Tensor, weight: Tensor, labels: Tensor, logits: int = LOGITS) -> Tensor:
    """Compute the mean cross-entropy (nats) of x W^T over the labels that are not -100; NaN if all are -100.

    Args:
        x: hidden states, (batch, T, width).
        weight: weight of the head, (vocab_size, width).
        labels: token ids, (batch, T).
        logits: number of logits in a slice; if there are no more in all, PyTorch's cross-entropy computes the loss.
    """
    x, labels = x.flatten(0, 1), labels.flatten()
    slices = -(-len(x) * len(weight) // logits)
    if slices <= 1:
        return F.cross_entropy(at_least_float32(F.linear(x, weight)), labels, ignore_index=IGNORE)
    return _SlicedHeadLoss.apply(x, weight, labels, slices, dtype_of_products(x))


class _SlicedHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, slices: int, dtype: torch.dtype) -> Tensor:
        w = weight.to(dtype)
        vocabulary = torch.arange(len(weight), device=x.device)
        scored = labels != IGNORE
        total, dx = at_least_float32(x.new_zeros(())), []
        dweight = torch.zeros_like(weight, dtype=total.dtype)
        for x_s, label, is_scored in zip(x.chunk(slices), labels.chunk(slices), scored.chunk(slices), strict=True):
            x_s, label, is_scored = x_s.to(dtype), label.where(is_scored, 0)[:, None], is_scored[:, None]
            z = at_least_float32(x_s @ w.T)  # (tokens of the slice, V)
            normalizer = z.logsumexp(-1, keepdim=True)
            total = total + (normalizer - z.gather(1, label)).where(is_scored, 0).sum()
            dz = ((z - normalizer).exp() - (label == vocabulary).to(z.dtype)).where(is_scored, 0).to(dtype)
            dx.append(dz @ w)
            dweight = dweight + dz.T @ x_s
        count = scored.sum().to(total.dtype)
        ctx.save_for_backward(torch.cat(dx), dweight, count)
        ctx.dtypes = x.dtype, weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dx, dweight, count = ctx.saved_tensors
        scale = (dloss / count).where(count > 0, 0)
        return (dx * scale).to(ctx.dtypes[0]), (dweight * scale).to(ctx.dtypes[1]), None, None, None
