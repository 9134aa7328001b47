"""Continue prompts of different lengths side by side, token by token.

No padding enters a state. The prompts are read in segments: all rows read as many tokens as the shortest prompt has,
then the longer ones read on, and so forth. Rows are then decoded as one batch if their states have the same shapes.
The states of attention grow with the prompt, so there prompts of different lengths make batches of their own.

On a GPU a step of a recurrent model is recorded once as a CUDA graph and replayed: its some hundred kernels take less
time than launching them one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lrnn.models.language_model import LanguageModel
from lrnn.models.layers import Linear

TOKENS = 2**17  # that the model reads in one call, over all rows
COLDEST = 1e-30  # a temperature below it takes the likeliest token: logits divided by it would exceed float32
WARMUP = 3  # steps before the recording of a graph: they compile kernels
Precision = Callable[[], AbstractContextManager[Any]]


class NonFiniteLogitsError(ValueError):
    """The model gave a logit that is not a finite number, so its weights are damaged."""


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the logits.

    Attributes:
        temperature: Temperature of the softmax; 0 always takes the likeliest token.
        top_k: Number of likeliest tokens to draw from; all when absent.
        top_p: Probability of the smallest set of likeliest tokens to draw from, in (0, 1]; 1 means all. It is taken
            after the temperature and `top_k`.
        seed: Seed of the draws, in [0, 2^63). Each prompt has draws of its own, which do not depend on the others.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def uniform(self, stream: int, tokens: int) -> Tensor:
        """Return the uniform numbers (tokens,) in [0, 1) that decide the tokens of a prompt."""
        seed = (self.seed + stream * 0x9E3779B97F4A7C15) % 2**63
        return torch.rand(tokens, generator=torch.Generator().manual_seed(seed))

    def choose(self, logits: Tensor, uniform: Tensor, allowed: Tensor) -> Tensor:
        """Choose a token a row, (B,), by inversion of the cumulative distribution.

        Args:
            logits: (B, vocabulary).
            uniform: numbers in [0, 1), (B,).
            allowed: which tokens may be chosen, a mask (B, vocabulary).
        """
        scores = logits.float().masked_fill(~allowed, -torch.inf)
        if self.temperature < COLDEST:
            return scores.argmax(-1)
        best, tokens = scores.topk(min(self.top_k or scores.shape[-1], scores.shape[-1]))  # in descending order
        p = torch.softmax(best / self.temperature, -1)
        p = p.where(p.cumsum(-1) - p < self.top_p, 0)
        cumulative = p.cumsum(-1)
        chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
        chosen = torch.minimum(chosen, (p > 0).sum(-1) - 1)  # never a token without probability, whatever is rounded
        return tokens.gather(1, chosen[:, None])[:, 0]


GREEDY = Sampling()


def select_rows(state: Any, rows: Tensor) -> Any:
    """Return the state of some rows: of each tensor of a state, those with the numbers `rows` (n,), int64."""
    return tree_map(lambda x: x[rows] if isinstance(x, Tensor) else x, state)


def concatenate(states: Sequence[Any]) -> Any:
    """Return the states of several batches as the state of one batch, whose rows follow in order."""
    return tree_map(lambda *x: torch.cat(x) if isinstance(x[0], Tensor) else x[0], *states) if states[1:] else states[0]


def read_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[tuple[list[int], Tensor, Any]]:
    """Read prompts of different lengths, each at least one token, without padding.

    Args:
        model: Model that reads.
        prompts: Token ids.

    Returns:
        Batches of (rows, logits, state): the numbers of the prompts in it, the logits (B, vocabulary) after their last
        tokens, and the state. There is one batch if all states have the same shapes.

    Raises:
        ValueError: if a prompt is empty.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("prompts: each must have at least one token")
    device = model.device
    rows = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    start, state = 0, None
    read: dict[Any, list[tuple[list[int], Tensor, Any]]] = {}
    while rows:
        end = min(len(prompts[rows[0]]), start + max(1, TOKENS // len(rows)))
        tokens = torch.tensor([list(prompts[row][start:end]) for row in rows], device=device)
        h, state = model.backbone.hidden_states(tokens, state)
        start, done = end, sum(len(prompts[row]) == end for row in rows)  # the first of `rows`
        if done:
            number = torch.arange(len(rows), device=device)
            ended = (rows[:done], model.backbone.head(h[:done, -1]), select_rows(state, number[:done]))
            read.setdefault(_shapes(ended[2]), []).append(ended)
            state, rows = select_rows(state, number[done:]), rows[done:]
    return [_merge(batches) for batches in read.values()]


def _merge(batches: list[tuple[list[int], Tensor, Any]]) -> tuple[list[int], Tensor, Any]:
    rows, logits, states = zip(*batches, strict=True)
    return [row for part in rows for row in part], torch.cat(logits), concatenate(states)


def _shapes(state: Any) -> tuple[Any, ...]:
    """Return the shape of each tensor of a state, without the batch."""
    return tuple(x.shape[1:] for x in tree_leaves(state) if isinstance(x, Tensor))


def _never(row: int, sampled: list[int]) -> bool:
    return False


def _all(row: int, sampled: list[int]) -> Tensor | None:
    return None


@torch.no_grad()
def continue_prompts(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    sampling: Sampling = GREEDY,
    *,
    ends: Callable[[int, list[int]], bool] = _never,
    allowed: Callable[[int, list[int]], Tensor | None] = _all,
    streams: Sequence[int] | None = None,
    graph: bool = True,
    precision: Precision = nullcontext,
) -> list[list[int]]:
    """Return the tokens that follow each prompt.

    Args:
        model: Model to decode with, in evaluation mode.
        prompts: Token ids, each at least one, of any lengths.
        tokens: Largest number of tokens to add to a prompt.
        sampling: How tokens are drawn.
        ends: Function that is called after each token with the number of the prompt and all tokens that were added to
            it. The prompt ends when it returns true.
        allowed: Function of the same arguments that is called before each token. It returns which tokens may come
            next, a mask (vocabulary,) on the CPU, or None for all; after None it is not called again for that prompt.
        streams: Number of the stream of draws of each prompt; its place in `prompts` when absent.
        graph: Whether to record the step on a GPU as a CUDA graph.
        precision: Makes the context in which the model is called, such as that of autocast. Autocast must not keep
            casts of the weights (`cache_enabled=False`).

    Raises:
        NonFiniteLogitsError: if a logit is not a finite number.
        ValueError: if a prompt is empty.
    """
    sampled: list[list[int]] = [[] for _ in prompts]
    streams = range(len(prompts)) if streams is None else streams
    with precision():
        batches = read_prompts(model, prompts)
    for rows, logits, state in batches:
        uniform = torch.stack([sampling.uniform(streams[row], tokens) for row in rows]).to(logits.device)
        batch = _Batch(model, sampling, rows, logits, state, uniform, graph, precision)
        for drawn in batch.decode(tokens, sampled, allowed):
            for row, token in zip(batch.rows, drawn, strict=True):
                if row not in batch.ended:
                    sampled[row].append(token)
                    if ends(row, sampled[row]):
                        batch.ended.add(row)
    return sampled


class _Batch:
    """Rows that are decoded together."""

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
        self.model, self.sampling, self.precision = model, sampling, precision
        self.rows, self.logits, self.state, self.uniform = rows, logits, state, uniform
        self.ended: set[int] = set()
        self.constrained = set(rows)  # rows that `allowed` is still asked about
        self.allowed = torch.ones_like(logits, dtype=torch.bool)
        self.graph = graph and logits.is_cuda
        self.replay: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        self.steps = 0  # of the eager steps since the batch has its present size

    def decode(
        self, tokens: int, sampled: list[list[int]], allowed: Callable[[int, list[int]], Tensor | None]
    ) -> Iterator[list[int]]:
        """Yield a token of each row, until all have ended or have `tokens`."""
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
            token = self._compact(token)

    def _constrain(self, sampled: list[list[int]], allowed: Callable[[int, list[int]], Tensor | None]) -> None:
        for i, row in enumerate(self.rows):
            if row in self.constrained:
                mask = allowed(row, sampled[row])
                self.allowed[i] = True if mask is None else mask.to(self.allowed.device)
                if mask is None:
                    self.constrained.remove(row)

    def _choose(self, logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        return self.sampling.choose(logits, draws, self.allowed), logits.isfinite().all()

    def _advance(self, token: Tensor, draws: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        with self.precision():
            logits, state = self.model.step(token, state)
        return *self._choose(logits, draws), state

    def _step(self, token: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        if self.graph and self.steps >= WARMUP and self.replay is None:
            self._record(token, draws)
        if self.replay is not None:
            return self.replay(draws)
        shapes = _shapes(self.state)
        token, finite, self.state = self._advance(token, draws, self.state)
        self.graph = self.graph and _shapes(self.state) == shapes  # the state of attention grows
        self.steps += 1
        return token, finite

    def _record(self, token: Tensor, draws: Tensor) -> None:
        """Record a step that reads and writes the same tensors at every replay."""
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

        self.replay = replay

    def _compact(self, token: Tensor) -> Tensor:
        """Leave out the rows that have ended; a recorded step goes on with them until half of the rows have ended."""
        left = len(self.rows) - len(self.ended)
        if left == len(self.rows) or (self.replay is not None and left > len(self.rows) // 2):
            return token
        kept = [i for i, row in enumerate(self.rows) if row not in self.ended]
        index = torch.tensor(kept, device=token.device)
        self.rows, self.ended, self.replay, self.steps = [self.rows[i] for i in kept], set(), None, 0
        self.state, self.uniform, self.allowed = (
            select_rows(x, index) for x in (self.state, self.uniform, self.allowed)
        )
        return token[index]


def round_products(model: LanguageModel, dtype: torch.dtype) -> None:
    """Hold the weights of the matrix products in a 16-bit dtype, in place.

    Autocast in that dtype rounds the same weights at every call, so the results stay the same; a step, which reads
    every weight once, becomes faster. A head that shares the embedding's weight gets a rounded copy of its own.
    """
    for module in model.modules():
        if isinstance(module, Linear) or module is model.backbone.head:
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
