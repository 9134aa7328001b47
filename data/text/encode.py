"""Tokenize documents in several processes, and keep their order."""

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

# A worker receives a batch of documents that reaches either limit.
BATCH_BYTES = 2**20
BATCH_DOCUMENTS = 4096


class Encoded(NamedTuple):
    """A tokenized batch of documents, divided into the two splits (training, validation)."""

    ids: tuple[np.ndarray, np.ndarray]  # token ids of each split, with EOS after every document
    documents: tuple[int, int]  # number of documents in each split
    read: int  # number of documents that were read, skipped ones included
    skipped: int


@dataclass(frozen=True)
class Recipe:
    """The settings of `prepare` that a worker needs."""

    tokenizer: str
    text_key: str
    validation_fraction: float
    skip_bad_documents: bool


def encode(tokenizer: Tokenizer, records: list[Record], recipe: Recipe) -> Encoded:
    """Tokenize documents. A hash of its text decides the split of a document, so that copies share a split.

    Raises DataError for a bad document (unless the recipe skips those) and for an id outside the vocabulary.
    """
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _recipe, _tokenizer = recipe, load_tokenizer(recipe.tokenizer)


def _end_with_parent() -> None:
    """Exit when the parent does: a killed parent cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(records: list[Record]) -> Encoded:
    return encode(_tokenizer, records, _recipe)


# In the parent process


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group documents into batches that depend on the documents only."""
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
    """Yield the tokenized batches in order. `workers` processes work a few batches ahead.

    Raises DataError if a worker fails or is killed.
    """
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
            raise DataError("workers: one was killed, perhaps because memory ran out; choose fewer") from error
        finally:
            pool.shutdown(cancel_futures=True)
