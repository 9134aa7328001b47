"""Documents to token ids, in several processes, in the order of the documents."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.text.shards import token_dtype
from data.text.sources import BadDocumentError, Record, text_of
from data.text.tokenizer import Tokenizer, load_tokenizer

BATCH_BYTES = 2**20  # of text that a worker is handed at once
BATCH_DOCUMENTS = 4096


class Encoded(NamedTuple):
    """A batch of documents: of each split, the ids with EOS after every document, and the number of documents."""

    ids: tuple[np.ndarray, np.ndarray]
    documents: tuple[int, int]
    read: int
    skipped: int


@dataclass(frozen=True)
class Recipe:
    """What a worker has to know."""

    tokenizer: str
    text_key: str
    validation_fraction: float
    skip_bad_documents: bool


def encode(tokenizer: Tokenizer, records: list[Record], recipe: Recipe) -> Encoded:
    """Tokenize documents; each belongs to a split by a hash of its text, so that copies of it stay together."""
    texts: tuple[list[str], list[str]] = [], []
    skipped = 0
    for record in records:
        try:
            text = text_of(record, recipe.text_key)
        except BadDocumentError as error:
            if not recipe.skip_bad_documents:
                raise DataError(f"{error}; --bad_documents=skip leaves such documents out") from error
            skipped += 1
            continue
        share = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
        texts[share < recipe.validation_fraction].append(text)
    eos = np.array([tokenizer.eos])
    ids = []
    for split in texts:
        pieces = [piece for encoded in tokenizer.encode(split) for piece in (encoded, eos)]
        joined = np.concatenate(pieces) if pieces else eos[:0]
        if len(joined) and not 0 <= joined.min() <= joined.max() < tokenizer.vocab_size:
            worst = joined.min() if joined.min() < 0 else joined.max()
            raise DataError(
                f"tokenizer: {recipe.tokenizer} gives id {worst} between {records[0].origin} and {records[-1].origin}, "
                f"outside its vocabulary of {tokenizer.vocab_size}"
            )
        ids.append(joined.astype(token_dtype(tokenizer.vocab_size)))
    return Encoded((ids[0], ids[1]), (len(texts[0]), len(texts[1])), len(records), skipped)


# In a worker process

_recipe: Recipe
_tokenizer: Tokenizer


def _start_worker(recipe: Recipe) -> None:
    global _recipe, _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _recipe, _tokenizer = recipe, load_tokenizer(recipe.tokenizer)


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(records: list[Record]) -> Encoded:
    return encode(_tokenizer, records, _recipe)


# In the parent process


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Documents in portions that depend on nothing but them."""
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.content)
        if size >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encoded_in_order(records: Iterable[Record], recipe: Recipe, workers: int) -> Iterator[Encoded]:
    """Batches tokenized by `workers` processes, a few of them in advance."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (recipe,)) as pool:
        pending: deque[Future[Encoded]] = deque()
        try:
            for batch in batches(records):
                pending.append(pool.submit(_encode, batch))
                if len(pending) > 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("workers: one was killed, perhaps for want of memory; fewer may fit") from error
        finally:
            pool.shutdown(cancel_futures=True)
