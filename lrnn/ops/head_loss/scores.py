"""Score the logits of the head against labels, without a gradient and without holding all logits at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.precision import at_least_float32
from lrnn.ops.head_loss.op import IGNORE, LOGITS


@torch.no_grad()
def head_scores(x: Tensor, weight: Tensor, labels: Tensor, logits: int = LOGITS) -> tuple[Tensor, Tensor, Tensor]:
    """Score the logits x W^T against the labels that are not -100.

    Args:
        x: hidden states (batch, T, width).
        weight: weights of the head (vocab_size, width).
        labels: token ids (batch, T).
        logits: number of logits that are held at a time.

    Returns:
        three scalars: the summed cross-entropy (nats, float32), the number of labels that have the largest logit, and
        the number of labels that are scored.
    """
    x, labels = x.flatten(0, 1), labels.flatten()
    slices = max(1, -(-len(x) * len(weight) // logits))
    nats = at_least_float32(x.new_zeros(()))
    correct = labels.new_zeros(())
    for x_slice, label in zip(x.chunk(slices), labels.chunk(slices), strict=True):
        z = at_least_float32(F.linear(x_slice, weight))
        nats = nats + F.cross_entropy(z, label, ignore_index=IGNORE, reduction="sum")
        correct = correct + (z.argmax(-1) == label).sum()
    return nats, correct, (labels != IGNORE).sum()
