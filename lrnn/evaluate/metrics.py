"""Accuracies of predicted tokens. A label of -100 marks a position that is not scored."""

import torch
from torch import Tensor
from torchmetrics import Metric

IGNORE = -100


class LabelAccuracy(Metric):
    """Share of the scored tokens that are predicted correctly."""

    higher_is_better = True
    full_state_update = False
    correct: Tensor
    scored: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("scored", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the tokens of predictions and labels, both token ids of the same shape (...)."""
        scored = labels != IGNORE
        self.correct += ((predictions == labels) & scored).sum()
        self.scored += scored.sum()

    def compute(self) -> Tensor:
        return self.correct / self.scored


class SequenceAccuracy(LabelAccuracy):
    """Share of the sequences whose scored tokens are all predicted correctly.

    A sequence without a scored token does not count.
    """

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the rows of predictions and labels, both token ids (B, T); a row is one whole sequence."""
        scored = labels != IGNORE
        wrong = ((predictions != labels) & scored).any(1)
        self.correct += (scored.any(1) & ~wrong).sum()
        self.scored += scored.any(1).sum()


class ScaledAccuracy(LabelAccuracy):
    """(accuracy - chance) / (1 - chance) over the scored tokens: 0 is a blind guess, 1 is always right."""

    def __init__(self, chance: float):
        """
        Args:
            chance: accuracy of a blind guess, in [0, 1).
        """
        super().__init__()
        if not 0 <= chance < 1:
            raise ValueError(f"chance: must lie in [0, 1), got {chance}")
        self.chance = chance

    def compute(self) -> Tensor:
        return (super().compute() - self.chance) / (1 - self.chance)
