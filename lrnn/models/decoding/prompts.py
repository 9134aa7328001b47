"""Read prompts of different lengths as one batch, without padding.

Padding would enter the states. So the prompts are read in segments: first, all rows read as many tokens as the shortest
prompt has; then the rows of longer prompts read on, and so forth. In the end the rows are joined into one batch, if
their states have the same shapes. The states of attention grow with the prompt, so with attention prompts of different
lengths are in batches of their own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lrnn.models.language_model import LanguageModel

TOKENS = 2**17  # that the model reads in one call, over all rows


def read_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[tuple[list[int], Tensor, Any]]:
    """Read prompts of different lengths, each at least one token, without padding.

    Args:
        model: Model that reads.
        prompts: Token ids.

    Returns:
        Batches of (rows, logits, state): the numbers of the prompts in the batch, the logits (B, vocabulary) after
        their last tokens, and the state. There is one batch if all states have the same shapes.

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
        start, done = end, sum(len(prompts[row]) == end for row in rows)  # the first `done` rows have ended
        if done:
            number = torch.arange(len(rows), device=device)
            ended = (rows[:done], model.backbone.head(h[:done, -1]), select_rows(state, number[:done]))
            read.setdefault(state_shapes(ended[2]), []).append(ended)
            state, rows = select_rows(state, number[done:]), rows[done:]
    return [_join(batches) for batches in read.values()]


def _join(batches: list[tuple[list[int], Tensor, Any]]) -> tuple[list[int], Tensor, Any]:
    rows, logits, states = zip(*batches, strict=True)
    return [row for part in rows for row in part], torch.cat(logits), _concatenate(states)


def select_rows(state: Any, rows: Tensor) -> Any:
    """Return the state of the rows with the numbers `rows` (n,), int64."""
    return tree_map(lambda x: x[rows] if isinstance(x, Tensor) else x, state)


def _concatenate(states: Sequence[Any]) -> Any:
    """Return the states of several batches as the state of one batch that has all their rows, in order."""
    return tree_map(lambda *x: torch.cat(x) if isinstance(x[0], Tensor) else x[0], *states) if states[1:] else states[0]


def state_shapes(state: Any) -> tuple[Any, ...]:
    """Return the shapes of the tensors of a state, each without the batch."""
    return tuple(x.shape[1:] for x in tree_leaves(state) if isinstance(x, Tensor))
