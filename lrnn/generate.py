"""Continue texts: python -m lrnn.generate --checkpoint=runs/pretrain_smoke --prompt="def "

A prompt is read in a few calls. Then each token takes one `step`, whose cost does not depend on the tokens before it.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import torch

import lrnn.runtime.kernel_cache  # noqa: F401  sets the cache's folders
from data.text.tokenizer import DEFAULT_TOKENIZER, load_tokenizer
from lrnn.evaluate.generation import encode_prompt, generate_texts
from lrnn.models.decoding import Sampling, round_products
from lrnn.runtime.checkpoint import find_checkpoint, load_model
from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError, check_at_least
from lrnn.runtime.run_tokenizer import tokenizer_of_run


def generate(
    checkpoint: str = "runs/pretrain_smoke",
    prompt: str = "def ",
    prompts: Sequence[str] | None = None,
    prompt_file: str | None = None,
    tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 64,
    tokenizer: str | None = None,
    device: str = "cpu",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    out: str | None = None,
) -> None:
    """Print prompts and their continuations, up to a stop string or to the end of the document.

    Args:
        checkpoint: Folder of a language model's run (its last checkpoint is read), or one of its checkpoints.
        prompt: Text to continue, the beginning of a document. It may be empty. Its continuation is printed as it grows.
        prompts: Texts to continue side by side, such as '["def f(", "class A:"]', in place of `prompt`.
        prompt_file: File of texts to continue, in place of `prompt`: JSON lines with strings or with objects that have
            a key `prompt` if its name ends in .jsonl, else one text a line.
        tokens: Largest number of tokens to add to a prompt.
        temperature: Temperature of the softmax that tokens are drawn from; 0 always takes the likeliest token.
        top_k: Number of likeliest tokens to draw from; null for all.
        top_p: Probability of the smallest set of likeliest tokens to draw from, in (0, 1]; 1 for all.
        stop: Strings that end a text, such as '["\\n\\n"]'. They are not printed.
        seed: Seed of the draws, in [0, 2^63). Each prompt has draws of its own.
        batch_size: Number of prompts that are continued side by side.
        tokenizer: Tokenizer that the model was trained with; when absent, the one that the config.yaml of the run
            names, or data/mistral_v1 if there is none.
        device: Device to run on, cpu or cuda.
        precision: Precision of the model's arithmetic, 32-true or bf16-mixed.
        out: File for JSON lines with the keys `prompt` and `continuation`; none is written when absent.
    """
    for name, value, least in (("tokens", tokens, 1), ("top_k", top_k, 1), ("temperature", temperature, 0)):
        if value is not None and not least <= value < float("inf"):
            raise ConfigError(f"{name}: must be a finite number, at least {least}, got {value}")
    check_at_least(1, batch_size=batch_size)
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p: must lie in (0, 1], got {top_p}")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed: must lie in [0, 2^63), got {seed}")
    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise ConfigError(f"out: must be a file in a folder that exists, got {out}")
    several = _several(prompts, prompt_file)
    checkpoint = find_checkpoint(checkpoint)
    model = load_model(checkpoint)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: must be cpu or cuda, if there is one, got {device}") from error
    tokenizer = tokenizer or _tokenizer_of(checkpoint)
    pieces = load_tokenizer(tokenizer)
    if model.vocab_size != pieces.vocab_size:
        raise ConfigError(f"tokenizer: {tokenizer} has {pieces.vocab_size} tokens, the model {model.vocab_size}")
    if precision == "bf16-mixed":
        round_products(model, torch.bfloat16)
    run = partial(
        generate_texts,
        model,
        pieces,
        tokens=tokens,
        sampling=Sampling(temperature, top_k, top_p, seed),
        stop=stop,
        batch_size=batch_size,
        precision=_autocast(device) if precision == "bf16-mixed" else nullcontext,
    )
    if several is None:
        print(encode_prompt(pieces, prompt)[1], end="", flush=True)
        continuations = run([prompt], on_text=lambda row, text: print(text, end="", flush=True))
        print()
    else:
        continuations = run(several)
        for row, (text, continuation) in enumerate(zip(several, continuations, strict=True), 1):
            print(f"--- {row} of {len(several)}\n{text}{continuation}")
    if out is not None:
        _write(Path(out), several or [prompt], continuations)


def _several(prompts: Sequence[str] | None, file: str | None) -> list[str] | None:
    """Return the prompts to continue side by side; None if there is only `prompt`."""
    if prompts is not None and file is not None:
        raise ConfigError("prompt_file: must be absent where prompts are given")
    if prompts is None and file is None:
        return None
    found = list(prompts) if prompts is not None else _read_prompts(Path(str(file)))
    if not found:
        raise ConfigError(f"{'prompts' if file is None else 'prompt_file'}: must have at least one prompt")
    return found


def _read_prompts(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8") as opened:
            lines = [line.rstrip("\n") for line in opened]  # splitlines would cut at other marks in a text as well
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt_file: {file} can't be read ({error})") from error
    if file.suffix != ".jsonl":
        return lines
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        text = record.get("prompt") if isinstance(record, dict) else record
        if not isinstance(text, str):
            raise ConfigError(f"prompt_file: line {number} of {file} must be a string or have one under the key prompt")
        prompts.append(text)
    return prompts


def _write(out: Path, prompts: Sequence[str], continuations: Sequence[str]) -> None:
    records = zip(prompts, continuations, strict=True)
    lines = (json.dumps({"prompt": text, "continuation": added}) + "\n" for text, added in records)
    try:
        out.write_text("".join(lines))
    except OSError as error:
        raise ConfigError(f"out: {out} could not be written ({error.strerror or error})") from error


def _autocast(device: str) -> partial[torch.autocast]:
    return partial(torch.autocast, torch.device(device).type, torch.bfloat16, cache_enabled=False)


def _tokenizer_of(checkpoint: str) -> str:
    config = Path(checkpoint).absolute().parent.parent / "config.yaml"
    return (tokenizer_of_run(config) if config.is_file() else None) or DEFAULT_TOKENIZER


def main() -> None:
    command(generate, "lrnn.generate")


if __name__ == "__main__":
    main()
