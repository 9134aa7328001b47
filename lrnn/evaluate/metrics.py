"""Accuracy on a scale from 0, a blind guess, to 1, always right."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ScaledAccuracy(Metric):
    """(accuracy - chance) / (1 - chance) over the scored tokens, by argmax over the whole vocabulary."""

    higher_is_better = True
    full_state_update = False
    correct: Tensor
    scored: Tensor

    def __init__(self, chance: float, ignore_index: int = -100):
        super().__init__()
        if not 0 <= chance < 1:
            raise ValueError(f"chance: must lie in [0, 1), got {chance}")
        self.chance = chance
        self.ignore_index = ignore_index
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("scored", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """logits (..., vocabulary), labels (...)."""
        self.correct += (logits.argmax(-1) == labels).logical_and(labels != self.ignore_index).sum()
        self.scored += (labels != self.ignore_index).sum()

    def compute(self) -> Tensor:
        return (self.correct / self.scored - self.chance) / (1 - self.chance)
