"""Decode the rows of one batch token by token, until each has ended.

On a GPU the step of a recurrent model is recorded as a CUDA graph and replayed. A step consists of some hundred small
kernels, and launching them one by one takes longer than running them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lrnn.models.decoding.prompts import select_rows, state_shapes
from lrnn.models.decoding.sampling import Sampling
from lrnn.models.language_model import LanguageModel

WARMUP = 3  # steps before the recording of a graph: they compile kernels
Precision = Callable[[], AbstractContextManager[Any]]
Allowed = Callable[[int, list[int]], Tensor | None]


class NonFiniteLogitsError(ValueError):
    """The model gave a logit that is not a finite number, so its weights are damaged."""


class DecodingBatch:
    """Rows that are decoded together.

    Attributes:
        rows: Numbers of the prompts in the batch. A row that has ended is left out sooner or later.
        ended: Those of `rows` that have ended. The caller of `decode` adds to it.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        rows: list[int],
        logits: Tensor,
        state: Any,
        uniform: Tensor,
        graph: bool,
        precision: Precision,
    ):
        """
        Args:
            model: Model to decode with.
            sampling: How tokens are drawn.
            rows: Numbers of the prompts.
            logits: Logits after the prompts, (B, vocabulary).
            state: State after the prompts.
            uniform: Numbers in [0, 1) that decide the tokens, (B, tokens).
            graph: Whether to record the step on a GPU.
            precision: Makes the context in which the model is called.
        """
        self.model, self.sampling, self.precision = model, sampling, precision
        self.rows, self.logits, self.state, self.uniform = rows, logits, state, uniform
        self.ended: set[int] = set()
        self._constrained = set(rows)  # rows that `allowed` is still asked about
        self._allowed = torch.ones_like(logits, dtype=torch.bool)
        self._graph = graph and logits.is_cuda
        self._replay: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        self._steps = 0  # that were not recorded, since the batch has its present size

    def decode(self, tokens: int, sampled: list[list[int]], allowed: Allowed) -> Iterator[list[int]]:
        """Yield a token for each of `rows`, again and again, until all rows have ended or have `tokens`.

        Args:
            tokens: Largest number of tokens of a row.
            sampled: Tokens of each prompt so far, to which the caller adds.
            allowed: Which tokens may come next, as in `continue_prompts`.

        Raises:
            NonFiniteLogitsError: if a logit is not a finite number.
        """
        token = None
        for i in range(tokens):
            self._constrain(sampled, allowed)
            draws = self.uniform[:, i]
            if token is None:
                token, finite = self._choose(self.logits, draws)
            else:
                token, finite = self._step(token, draws)
            *drawn, all_finite = torch.cat([token, finite[None].to(token.dtype)]).tolist()  # one copy from the GPU
            if not all_finite:
                raise NonFiniteLogitsError("the model gives logits that are not finite, so its weights are damaged")
            yield drawn
            if len(self.ended) == len(self.rows):
                return
            token = self._leave_out_ended(token)

    def _constrain(self, sampled: list[list[int]], allowed: Allowed) -> None:
        """Ask which tokens may come next, for the rows where not all may."""
        for i, row in enumerate(self.rows):
            if row in self._constrained:
                mask = allowed(row, sampled[row])
                self._allowed[i] = True if mask is None else mask.to(self._allowed.device)
                if mask is None:
                    self._constrained.remove(row)

    def _choose(self, logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next tokens (B,), and whether all logits are finite, a scalar."""
        return self.sampling.choose(logits, draws, self._allowed), logits.isfinite().all()

    def _advance(self, token: Tensor, draws: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        with self.precision():
            logits, state = self.model.step(token, state)
        return *self._choose(logits, draws), state

    def _step(self, token: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Read a token of each row and choose the next ones, by the recorded step if there is one."""
        if self._graph and self._steps >= WARMUP and self._replay is None:
            self._replay = self._record(token, draws)
        if self._replay is not None:
            return self._replay(draws)
        shapes = state_shapes(self.state)
        token, finite, self.state = self._advance(token, draws, self.state)
        self._graph = self._graph and state_shapes(self.state) == shapes  # the state of attention grows
        self._steps += 1
        return token, finite

    def _record(self, token: Tensor, draws: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Record a step that reads and writes the same tensors at every replay; return the function that replays it."""
        token, draws = token.clone(), draws.clone()
        self.state = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self.state)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            new, finite, state = self._advance(token, draws, self.state)
            token.copy_(new)
            for kept, x in zip(tree_leaves(self.state), tree_leaves(state), strict=True):
                if isinstance(kept, Tensor):
                    kept.copy_(x)

        def replay(next_draws: Tensor) -> tuple[Tensor, Tensor]:
            draws.copy_(next_draws)
            recorded.replay()
            return token, finite

        return replay

    def _leave_out_ended(self, token: Tensor) -> Tensor:
        """Leave out the rows that have ended. A recorded step keeps them until half of its rows have ended."""
        left = len(self.rows) - len(self.ended)
        if left == len(self.rows) or (self._replay is not None and left > len(self.rows) // 2):
            return token
        kept = [i for i, row in enumerate(self.rows) if row not in self.ended]
        index = torch.tensor(kept, device=token.device)
        self.rows, self.ended, self._replay, self._steps = [self.rows[i] for i in kept], set(), None, 0
        self.state, self.uniform, self._allowed = (
            select_rows(x, index) for x in (self.state, self.uniform, self._allowed)
        )
        return token[index]
