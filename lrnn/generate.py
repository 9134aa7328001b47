"""Continue a text: python -m lrnn.generate --checkpoint=runs/pretrain_smoke/checkpoints/last.ckpt --prompt="def "

The prompt is read in one call, then each token takes one `step`: the cost of a token does not depend on the past.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from data.text.tokenizer import DEFAULT_TOKENIZER, Tokenizer, load_tokenizer
from lrnn.models import LanguageModel
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.run_tokenizer import tokenizer_of_run


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompt: Tensor,
    temperature: float,
    top_k: int,
    seed: int,
    allowed: Callable[[list[int]], Tensor | None] = lambda sampled: None,
) -> Iterator[int]:
    """Yield the tokens after the prompt (T,), without end.

    Args:
        model: Model that gives the probabilities.
        prompt: Tokens to continue, on the device of the model.
        temperature: Temperature of the softmax that tokens are drawn from; 0 always takes the likeliest token.
        top_k: Number of likeliest tokens to draw from.
        seed: Seed of the draws.
        allowed: Function of the tokens that were sampled so far. It returns which tokens may come next, a mask
            (vocabulary,) on the CPU, or None for all.

    Raises:
        ConfigError: if a logit is not a finite number.
    """
    random = torch.Generator().manual_seed(seed)
    logits, state = model(prompt[None])
    logits = logits[:, -1]
    sampled: list[int] = []
    while True:
        scores = logits[0].float().cpu()
        if not scores.isfinite().all():
            raise ConfigError("checkpoint: the model gives logits that are not finite, so its weights are damaged")
        if (mask := allowed(sampled)) is not None:
            scores[~mask] = -torch.inf
        best, tokens = scores.topk(min(top_k, len(scores)))  # in descending order
        chosen = 0
        if temperature:
            chosen = int(torch.multinomial(torch.softmax(best / temperature, 0), 1, generator=random))
        sampled.append(int(tokens[chosen]))
        yield sampled[-1]
        logits, state = model.step(tokens[chosen, None].to(prompt.device), state)


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> tuple[list[int], str]:
    """Encode a prompt without the spaces at its end. Return its ids, and the whole prompt as they are decoded.

    A space belongs to the token of the next word: "def f" is encoded as [_def, _f], where _ stands for the space. If
    "def " were encoded as [_def, _], the next _f would add a second space.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("prompt: is not UTF-8") from error
    text = tokenizer.decode(tokenizer.encode([prompt])[0].tolist())
    return tokenizer.encode([text.rstrip(" ")])[0].tolist(), text


def tokens_that_end_the_prompt(tokenizer: Tokenizer, ids: list[int], text: str, sampled: list[int]) -> Tensor | None:
    """Return the tokens that may follow ids + sampled so that the whole begins with `text`: (vocabulary,), a mask.

    Returns None if all may: because `text` is complete, or because the tokenizer has no token for the spaces that are
    still missing.
    """
    missing = len(text) - len(tokenizer.decode(ids + sampled))
    return tokens_of_spaces(tokenizer, missing, not ids + sampled) if missing > 0 else None


@lru_cache
def tokens_of_spaces(tokenizer: Tokenizer, count: int, first: bool) -> Tensor | None:
    """Return the tokens that begin with `count` spaces, or consist of fewer: (vocabulary,), a mask; None if none do.

    `first` says that the token begins a text. There, a token of sentencepiece has one space more than it adds.
    """
    before = "" if first else "a"
    ids = tokenizer.encode([before])[0].tolist()
    texts = [tokenizer.decode([*ids, token]) for token in range(tokenizer.vocab_size)]
    spaced = [i for i, text in enumerate(texts) if text[len(before) :][:count].strip(" ") == "" and text != before]
    # without tokens that no text is encoded to, such as that for an unknown character
    encoded = tokenizer.encode([texts[i] for i in spaced])
    reachable = [i for i, found in zip(spaced, encoded, strict=True) if i in found[-1:]]
    if first:  # a first token may consist of that one space alone
        reachable += tokenizer.encode([" a"])[0][:1].tolist()
    mask = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
    mask[reachable] = True
    return mask if reachable else None


def generate(
    checkpoint: str = "runs/pretrain_smoke/checkpoints/last.ckpt",
    prompt: str = "def ",
    tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
    tokenizer: str | None = None,
    device: str = "cpu",
) -> None:
    """Print a prompt and its continuation, up to the end of the document.

    Args:
        checkpoint: Checkpoint of a language model that `python -m lrnn.fit` has trained.
        prompt: Text to continue, the beginning of a document. It may be empty.
        tokens: Largest number of tokens to add.
        temperature: Temperature of the softmax that tokens are drawn from; 0 always takes the likeliest token.
        top_k: Number of likeliest tokens to draw from.
        seed: Seed of the draws, in [0, 2^63).
        tokenizer: Tokenizer that the model was trained with; when absent, the one that the config.yaml of the run
            names, or data/mistral_v1 if there is none.
        device: Device to run on, cpu or cuda.
    """
    for name, value, least in (("tokens", tokens, 1), ("top_k", top_k, 1), ("temperature", temperature, 0)):
        if not least <= value < float("inf"):
            raise ConfigError(f"{name}: must be a finite number, at least {least}, got {value}")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed: must lie in [0, 2^63), got {seed}")
    model = load_model(checkpoint)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: must be cpu or cuda, if there is one, got {device}") from error
    tokenizer = tokenizer or _tokenizer_of(checkpoint)
    pieces = load_tokenizer(tokenizer)
    if model.vocab_size != pieces.vocab_size:
        raise ConfigError(f"tokenizer: {tokenizer} has {pieces.vocab_size} tokens, the model {model.vocab_size}")
    ids, shown = encode_prompt(pieces, prompt)
    print(shown, end="", flush=True)
    allowed = partial(tokens_that_end_the_prompt, pieces, list(ids), shown)
    read = torch.tensor([pieces.eos, *ids], device=device)  # a document begins after the end of the one before
    stream = sample(model, read, temperature, top_k, seed, allowed)
    for _, token in zip(range(tokens), stream, strict=False):
        if token == pieces.eos:
            break
        ids.append(token)
        text = pieces.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # then the last token ends inside a character
            print(text[len(shown) :], end="", flush=True)
            shown = max(text, shown, key=len)
    print()


def _tokenizer_of(checkpoint: str) -> str:
    config = Path(checkpoint).absolute().parent.parent / "config.yaml"
    return (tokenizer_of_run(config) if config.is_file() else None) or DEFAULT_TOKENIZER


def main() -> None:
    command(generate, "lrnn.generate")


if __name__ == "__main__":
    main()
