"""Accuracies of predicted tokens. A label of -100 marks a position that is not scored."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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
        """Return the share, a scalar in float64 on the CPU, since not every device has float64."""
        return self.correct.cpu().double() / self.scored.cpu()


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


class PrefixAccuracy(Metric):
    """Accuracies at each position t of a sequence: of the label at t, and of all labels up to t.

    Only the sequences that have a label at t count there.
    """

    higher_is_better = True
    full_state_update = False
    scored: Tensor
    right: Tensor
    right_so_far: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("scored", "right", "right_so_far"):
            self.add_state(name, torch.zeros(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the positions of predictions and labels, both token ids (B, T)."""
        scored = labels != IGNORE
        wrong = (predictions != labels) & scored
        so_far = wrong.cumsum(1) == 0
        for name, counted in (("scored", scored), ("right", scored & ~wrong), ("right_so_far", scored & so_far)):
            counts = [getattr(self, name), counted.sum(0)]
            setattr(self, name, pad_sequence(counts, batch_first=True).sum(0))  # T differs where documents do

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the positions that have labels (P,), and both accuracies there: (P,), float64, all on the CPU."""
        scored, right, right_so_far = (counts.cpu() for counts in (self.scored, self.right, self.right_so_far))
        positions = scored.nonzero()[:, 0]
        labels = scored[positions].double()
        return positions, right[positions] / labels, right_so_far[positions] / labels


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
