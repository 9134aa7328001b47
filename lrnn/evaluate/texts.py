"""Long sequences of tokens from texts: data sets of the hub by a short name, or local files.

    codeparrot   math_hard   trivia_qa   slimpajama         those of the paper's Figure 5
    pages/   notes.txt   "dumps/*.jsonl.zst"   stdlib       any source of data/text/sources.py

Documents follow one another in their order, each ended by EOS, as in training.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from data.errors import DataError
from data.text.records import Record
from data.text.sources import BadDocumentError, HubSource, Source, open_source, text_of
from data.text.tokenizer import Tokenizer

DOCUMENTS = 64  # that are encoded together


class HubText(NamedTuple):
    """A data set of the hub, and how one of its rows becomes a document."""

    name: str
    split: str
    document: str  # a format of the row's fields


# as in the code that extends the paper's; it names neither the fields of trivia-qa nor the split of MATH-Hard
HUB_TEXTS = {
    "codeparrot": HubText("codeparrot/codeparrot-valid-v2-near-dedup", "train", "{content}"),
    "math_hard": HubText("lighteval/MATH-Hard", "test", "Problem: {problem}, Solution: {solution}"),
    "trivia_qa": HubText("sentence-transformers/trivia-qa", "train", "{query} {answer}"),
    "slimpajama": HubText("DKYoon/SlimPajama-6B", "validation", "{text}"),
}


def token_sequences(
    text: str, tokenizer: Tokenizer, lengths: Sequence[int], sequences: int, text_key: str = "text"
) -> Tensor:
    """Return sequences (N, T + 1) of consecutive tokens, int64, that start T tokens apart.

    Args:
        text: Name of a text (see the top of this file).
        tokenizer: Tokenizer of the models.
        lengths: Lengths that will be scored. T is the longest of them that the text has tokens for.
        sequences: Largest number of sequences.
        text_key: Key or column that holds the text, in files of records.

    Raises:
        DataError: if the text can't be read, or has fewer tokens than the shortest length.
    """
    wanted = max(lengths) * sequences + 1
    ids = list(islice(_tokens(text, tokenizer, text_key), wanted))
    fitting = [length for length in lengths if length < len(ids)]
    if not fitting:
        raise DataError(
            f"texts: {text} has {len(ids) - 1:,} tokens, fewer than the first length, {min(lengths):,}; "
            "give a longer text, or shorter --lengths"
        )
    T = max(fitting)
    rows = min(sequences, (len(ids) - 1) // T)
    return torch.tensor(ids[: rows * T + 1]).unfold(0, T + 1, T)


def _tokens(text: str, tokenizer: Tokenizer, text_key: str) -> Iterator[int]:
    yield tokenizer.eos  # a document begins after the end of another
    documents = _documents(text, text_key)
    while batch := list(islice(documents, DOCUMENTS)):
        for ids in tokenizer.encode(batch):
            yield from ids.tolist()
            yield tokenizer.eos


def _documents(text: str, text_key: str) -> Iterator[str]:
    hub = HUB_TEXTS.get(text)
    for record in _records(text, hub, text_key):
        try:
            yield text_of(record, "text" if hub else text_key)
        except BadDocumentError:  # an empty one, say
            continue


def _records(text: str, hub: HubText | None, text_key: str) -> Iterator[Record]:
    try:
        source = open_source(text, text_key, None, "train", "main") if hub is None else _hub_source(hub)
        yield from source.records(0)
    except DataError as error:
        if not str(error).startswith("source:"):  # a library is missing
            raise
        if hub is None:
            raise DataError(f"texts{str(error).removeprefix('source')}") from error
        reason = str(error).partition("(")[2].rstrip(")")[:120]
        raise DataError(
            f"texts: {text} ({hub.name}) can't be read from the Hugging Face hub here; give local files instead, "
            f"--texts=[folder/or/file.jsonl] ({reason})"
        ) from error


def _hub_source(hub: HubText) -> Source:
    source = HubSource(hub.name, None, hub.split, "main", "text")
    source.rows = source.rows.map(lambda row: {"text": hub.document.format(**row)})
    return source
