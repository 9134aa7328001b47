"""State consistency: sequences with the same answer end in the same state.

On a task whose last label determines the state that a model must keep, such as the product of the elements of a group,
the term

    strength * mean_i ( |S_i - C[y_i]|^2 / M + mean_p |S_ip - C_p[y_i]|^2 / N_p )
    M = mean_y |C[y] - mean C|^2        N_p = mean_y |C_p[y]|^2

is added to the loss (lrnn/models/auxiliary_terms.py). S_i are the recurrent states of all blocks after sequence i, y_i
is its last label, and C is a learned table with a state for each label. A part p of a state is a head, or the whole
state of a block without heads. S_ip and C_p are the parts of S_i and C. The means over y are over the labels that have
occurred.

Cross-entropy teaches almost nothing once every answer is right, since its gradient fades exponentially. A recurrence
that keeps its states does not correct errors, so the errors that are left add up over a long sequence. The first ratio
is what decides how long the states stay apart (arXiv 2605.07755). Its gradient fades only as the states become exact.

The second ratio is for parts that hold little of the label. Their states are small, and count for nothing in the first
ratio. But the norm after a head makes a small state count as much as a large one. Without the second ratio, such a head
may drift until answers are wrong (results/groups).

Training has two phases. At first only C learns: the term is mean_i |S_i - C[y_i]|^2 and no gradient reaches the model.
The second phase begins when training has reached its longest sequences and the cross-entropy is small. If it began
before the labels are learned, the term could keep the model from learning them. In the second phase the strength grows
linearly over the ramp.

Discrete states inside the transition of a nonlinear RNN (Das and Mozer 1993; Wang and Niepert, ICML 2019) are the
nearest relatives. Here the transition stays as it is.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from lrnn.ops import IGNORE, at_least_float32

CHECK = 50  # optimizer steps between two checks of the cross-entropy; at each, the CPU waits for the GPU
MEMORY = 50  # optimizer steps that the running mean of the cross-entropy looks back over
TINY = 1e-6  # share of M that is added to N_p


class StateConsistency(nn.Module):
    """Table C, and the state of the two phases."""

    def __init__(
        self,
        labels: int,
        sizes: Sequence[int],
        parts: Sequence[int],
        strength: float,
        threshold: float,
        ramp: float,
        rate: float = 1.0,
    ):
        """
        Args:
            labels: number of labels.
            sizes: size of the recurrent state of each block that has one.
            parts: number of parts of each of these states, all of one size.
            strength: strength of the term after the ramp.
            threshold: cross-entropy, in nats, below which the second phase begins.
            ramp: optimizer steps over which the strength grows, or a fraction of all steps if below 1.
            rate: learning rate of the table, as a multiple of the model's. The parameter holds the table divided by
                this number, since AdamW moves every parameter by about the learning rate.

        Raises:
            ValueError: if an option is out of its range, or the model has no recurrent state.
        """
        super().__init__()
        if not strength > 0 or not math.isfinite(strength):
            raise ValueError(f"model.state_consistency: must be 0 or a positive number, got {strength}")
        if not threshold > 0:
            raise ValueError(f"model.consistency_start: must be above 0, got {threshold}")
        if not 0 <= ramp < math.inf:
            raise ValueError(f"model.consistency_ramp: must be at least 0 and finite, got {ramp}")
        if not 0 < rate < math.inf:
            raise ValueError(f"model.consistency_rate: must be above 0 and finite, got {rate}")
        if not sizes:
            raise ValueError(
                "model.state_consistency: must be 0, as no mixer of this model has a recurrent state that can be "
                "compared (Mixer.recurrent_size)"
            )
        self.strength, self.threshold, self.ramp, self.rate = strength, threshold, ramp, rate
        self.sizes, self.parts = list(sizes), list(parts)
        self.table = nn.Parameter(torch.zeros(labels, sum(sizes)))
        self.table.no_weight_decay = True  # type: ignore[attr-defined]
        self.table.unclipped = True  # type: ignore[attr-defined]
        self.seen: Tensor
        self.cross_entropy: Tensor
        self.weight: Tensor
        self.began: Tensor
        self.register_buffer("seen", torch.zeros(labels, dtype=torch.bool))  # labels that have occurred
        self.register_buffer("cross_entropy", torch.tensor(math.log(labels)))  # running mean over all ranks
        self.register_buffer("weight", torch.tensor(0.0))  # strength at this step, 0 in the first phase
        self.register_buffer("began", torch.tensor(-1))  # first step of the second phase, -1 before it
        self._began = -1  # the same on the CPU
        self._checked = -1
        self.micro_batches = 1  # of an optimizer step

    def forward(self, states: list[Tensor], labels: Tensor, cross_entropy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the term, a scalar, and the first ratio in it, which has no gradient.

        The choice between the phases is arithmetic on the GPU, so that a recorded step can be replayed in both.

        Args:
            states: recurrent states of each block after the last token, (B, size of the block).
            labels: labels at the last token (B,). A sequence without one, -100, does not count: it is shorter, and its
                padding has changed its state. The batch in which a curriculum changes the length has such sequences.
            cross_entropy: mean over the batch, in nats, a scalar.
        """
        scored = labels != IGNORE
        with torch.no_grad():
            occurring = (labels[:, None] == torch.arange(len(self.seen), device=labels.device)).any(0)
            occurring, cross_entropy = _over_ranks(occurring, cross_entropy.to(self.cross_entropy))
            self.seen |= occurring
            self.cross_entropy.lerp_(cross_entropy, 1 / (MEMORY * self.micro_batches))
        second = self.weight > 0
        S = torch.cat([at_least_float32(state) for state in states], 1)
        S = torch.where(second, S, S.detach())
        of_parts = self._of_parts((S - self.rate * F.embedding(labels.where(scored, 0), self.table)).square())
        of_parts = of_parts.where(scored[:, None], 0).sum(0) / scored.sum().clamp(min=1)
        distance = of_parts.sum()
        separation, squares = self._separation_and_squares()
        ratio = distance / torch.where(second, separation, 1.0)  # the table is all zero at the first step
        # a part that is all zero, as one that no token writes to, is exact
        relative = of_parts / torch.where(second, squares + TINY * separation, 1.0)
        term = torch.where(second, self.weight * (ratio + relative.mean()), distance)
        return term, ratio.detach()

    def _separation_and_squares(self) -> tuple[Tensor, Tensor]:
        """Return M, and N_p for every part."""
        seen = self.seen[:, None]
        count = self.seen.sum()
        centre = (self.table * seen).sum(0) / count
        separation = ((self.table - centre).square() * seen).sum() / count
        squares = self._of_parts((self.table.square() * seen).sum(0, keepdim=True))[0] / count
        return self.rate**2 * separation, self.rate**2 * squares

    def _of_parts(self, x: Tensor) -> Tensor:
        """Sum x (n, size of all blocks) over each part."""
        blocks = zip(x.split(self.sizes, 1), self.parts, strict=True)
        return torch.cat([block.unflatten(1, (parts, -1)).sum(2) for block, parts in blocks], 1)

    def begin_training(self, step: int, micro_batches: int) -> None:
        """Prepare for training: read the phase from the buffers, which a checkpoint may have filled.

        A second phase that began after `step` is of an earlier training of this model. The first phase starts again.

        Args:
            step: number of the next optimizer step.
            micro_batches: number of micro-batches of an optimizer step.
        """
        if int(self.began) > step:
            self.began.fill_(-1)
            self.weight.zero_()
            self.cross_entropy.fill_(math.log(len(self.seen)))
        self._began, self._checked, self.micro_batches = int(self.began), -1, micro_batches

    def wants_check(self, step: int) -> bool:
        """Return whether `check` is due before optimizer step number `step`."""
        return self._began < 0 and step > 0 and step % CHECK == 0 and step != self._checked

    def check(self, step: int, longest: bool) -> None:
        """Begin the second phase at this step if the time has come.

        Args:
            step: number of the step, from 0.
            longest: whether training has reached its longest sequences.
        """
        self._checked = step
        if not longest:
            self.cross_entropy.fill_(math.log(len(self.seen)))  # what is learned of shorter sequences does not count
        elif self.cross_entropy.item() < self.threshold:
            self._began = step
            self.began.fill_(step)

    def set_weight(self, step: int, steps: float) -> None:
        """Set the strength of optimizer step number `step` of `steps`."""
        if self._began < 0:
            return
        ramp = self.ramp * steps if self.ramp < 1 else self.ramp
        self.weight.fill_(self.strength * min(1.0, (step - self._began + 1) / max(ramp, 1.0)))


def _over_ranks(occurring: Tensor, cross_entropy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labels that occur on any rank, and the mean of the cross-entropy over the ranks.

    All ranks then hold the same buffers, with any strategy, and a checkpoint holds those of every rank.
    """
    ranks = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if ranks == 1:
        return occurring, cross_entropy
    total = torch.cat([occurring.to(cross_entropy), cross_entropy[None]])
    distributed.all_reduce(total)
    return total[:-1] > 0, total[-1] / ranks
