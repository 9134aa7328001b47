"""Continue a text: python -m lrnn.generate --checkpoint=runs/pretrain_smoke/checkpoints/last.ckpt --prompt="def "

The prompt is read in one call, then each token takes one `step`: the cost of a token does not depend on the past.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.text.tokenizer import DEFAULT_TOKENIZER, load_tokenizer
from lrnn.models import LanguageModel
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError


@torch.no_grad()
def sample(model: LanguageModel, prompt: Tensor, temperature: float, top_k: int, seed: int) -> Iterator[int]:
    """Yield the tokens after the prompt (T,), without end."""
    random = torch.Generator().manual_seed(seed)
    logits, state = model(prompt[None])
    logits = logits[:, -1]
    while True:
        best, tokens = logits[0].float().cpu().topk(min(top_k, logits.shape[-1]))  # in descending order
        chosen = 0
        if temperature:
            chosen = int(torch.multinomial(torch.softmax(best / temperature, 0), 1, generator=random))
        yield int(tokens[chosen])
        logits, state = model.step(tokens[chosen, None].to(prompt.device), state)


def generate(
    checkpoint: str = "runs/pretrain_smoke/checkpoints/last.ckpt",
    prompt: str = "def ",
    tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
    tokenizer: str = DEFAULT_TOKENIZER,
    device: str = "cpu",
) -> None:
    """Print a prompt and its continuation, up to the end of the document.

    Args:
        checkpoint: Checkpoint of a language model that `python -m lrnn.fit` has trained.
        prompt: Text to continue.
        tokens: Largest number of tokens to add.
        temperature: Temperature of the softmax that tokens are drawn from; 0 always takes the likeliest token.
        top_k: Number of likeliest tokens to draw from.
        seed: Seed of the draws.
        tokenizer: Tokenizer that the model was trained with.
        device: Device to run on, cpu or cuda.
    """
    for name, value, least in (("tokens", tokens, 1), ("top_k", top_k, 1), ("temperature", temperature, 0)):
        if value < least:
            raise ConfigError(f"{name}: must be at least {least}, got {value}")
    model, pieces = load_model(checkpoint).to(device), load_tokenizer(tokenizer)
    if model.vocab_size != pieces.vocab_size:
        raise ConfigError(f"tokenizer: {tokenizer} has {pieces.vocab_size} tokens, the model {model.vocab_size}")
    ids = pieces.encode([prompt])[0].tolist() or [pieces.eos]  # a document begins after the end of the one before
    shown = pieces.decode(ids)
    print(shown, end="", flush=True)
    stream = sample(model, torch.tensor(ids, device=device), temperature, top_k, seed)
    for _, token in zip(range(tokens), stream, strict=False):
        if token == pieces.eos:
            break
        ids.append(token)
        text = pieces.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # then the last token ends inside a character
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()


def main() -> None:
    command(generate, "lrnn.generate")


if __name__ == "__main__":
    main()
