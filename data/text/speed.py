"""Measure the speed of tokenizing and reading: python -m data.text.speed --shards=shards/stdlib

Tokenizing is measured on one core, once as a worker of `python -m data.prepare` does it, and once with the batch
encoding of the tokenizer's library alone. Reading is measured on shuffled rows, as training reads them.
"""

import sys
import time
from itertools import islice

from jsonargparse import ArgumentError, auto_cli

from data.text.encode import Recipe, batches, encode
from data.text.sources import open_source, text_of
from data.text.tokenizer import DEFAULT_TOKENIZER, load_tokenizer


def speed(
    shards: str = "shards/stdlib",
    source: str = "stdlib",
    text_key: str = "text",
    tokenizer: str = DEFAULT_TOKENIZER,
    context: int = 2048,
    batch_size: int = 16,
    num_workers: int = 1,
    seconds: float = 10.0,
) -> None:
    """Print the speed of tokenizing and of reading, in tokens a second.

    Args:
        shards: Folder of token shards to read from.
        source: Documents to tokenize, as for `python -m data.prepare`.
        text_key: Column or key that holds the text, as for `python -m data.prepare`.
        tokenizer: Tokenizer that the shards were made with.
        context: Number of tokens in a row.
        batch_size: Number of rows in a batch.
        num_workers: Number of processes that read rows.
        seconds: Duration of each of the three measurements, in seconds.

    Raises:
        ValueError: if an option is out of its range.
    """
    if not seconds > 0:
        raise ValueError(f"seconds: must be above 0, got {seconds}")
    ours, library = _tokenizing(source, text_key, tokenizer, seconds)
    print(f"tokenizing, one core:      {ours:12,.0f} tokens/s")
    print(f"by the library alone:      {library:12,.0f} tokens/s (ratio of the first to this: {ours / library:.2f})")
    rate = _reading(shards, tokenizer, context, batch_size, num_workers, seconds)
    print(f"reading, {num_workers} workers:        {rate:12,.0f} tokens/s")


def _tokenizing(source: str, text_key: str, name: str, seconds: float) -> tuple[float, float]:
    """Tokens per second of CPU time, ours and the library's alone. Both tokenize each batch, one after the other."""
    tokenizer, recipe = load_tokenizer(name), Recipe(name, text_key, 0.001, skip_bad_documents=True)
    records = open_source(source, text_key, None, "train", "main").records(0)
    tokens, spent, alone = 0, 0.0, 0.0
    for batch in batches(records):
        start = time.process_time()
        encoded = encode(tokenizer, batch, recipe)
        spent += time.process_time() - start
        tokens += sum(map(len, encoded.ids))
        texts = [text_of(record, text_key) for record in batch]
        start = time.process_time()
        tokenizer.encode(texts)
        alone += time.process_time() - start
        if spent + alone > 2 * seconds:
            break
    return tokens / spent, tokens / alone


def _reading(shards: str, tokenizer: str, context: int, batch_size: int, num_workers: int, seconds: float) -> float:
    from data.text.fineweb import FineWeb

    data = FineWeb(shards, batch_size, context, tokenizer=tokenizer, num_workers=num_workers)
    batches = iter(data.train_dataloader())
    for _ in islice(batches, 100):  # until the workers run and the file cache is warm
        pass
    tokens, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        tokens += next(batches).inputs.numel()
    return tokens / elapsed


def main() -> None:
    try:
        auto_cli(speed, exit_on_error=False, prog="python -m data.text.speed")
    except (ArgumentError, ValueError) as error:  # a DataError is a ValueError
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
