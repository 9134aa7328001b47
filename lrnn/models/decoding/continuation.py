"""Read prompts, and decode what follows each of them."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from lrnn.models.decoding.batch import Allowed, DecodingBatch, Precision
from lrnn.models.decoding.prompts import read_prompts
from lrnn.models.decoding.sampling import GREEDY, Sampling
from lrnn.models.language_model import LanguageModel


def _ends_nowhere(row: int, sampled: list[int]) -> bool:
    return False


def _allows_all(row: int, sampled: list[int]) -> Tensor | None:
    return None


@torch.no_grad()
def continue_prompts(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    sampling: Sampling = GREEDY,
    *,
    ends: Callable[[int, list[int]], bool] = _ends_nowhere,
    allowed: Allowed = _allows_all,
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
        batch = DecodingBatch(model, sampling, rows, logits, state, uniform, graph, precision)
        for drawn in batch.decode(tokens, sampled, allowed):
            for row, token in zip(batch.rows, drawn, strict=True):
                if row not in batch.ended:
                    sampled[row].append(token)
                    if ends(row, sampled[row]):
                        batch.ended.add(row)
    return sampled
