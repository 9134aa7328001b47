"""Sources of documents: local files, the Hugging Face hub, or the standard library of Python.

stdlib                   the modules of the running Python, one document each: real text without a network
pages/                   a folder, a file or a pattern ("dumps/*.jsonl.zst"), in sorted order:
                           .parquet            one document a row, in the text column
                           .jsonl .ndjson      one document a line, under the text key
                           .json               the same, or an array of objects or strings, or one object
                           .csv .tsv           one document a row, in the text column, which the first line names
                           anything else       one document a file
                         any of them but .parquet may be compressed, as .gz or .zst. Hidden files, READMEs and Git
                         LFS pointers are not read (data/text/listing.py).
HuggingFaceFW/fineweb    a data set of the hub
"""

import gzip
import io
import json
import os
import re
import sys
import sysconfig
import zlib
from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from hashlib import sha256
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.text.listing import list_files
from data.text.optional import require
from data.text.records import COMPRESSED, RECORDS, Record, is_object, read_records, refuse_wide


class BadDocumentError(DataError):
    """A document that is empty, not UTF-8, or JSON lines under another ending."""


def text_of(record: Record, text_key: str) -> str:
    """Return the text of a document, without a byte order mark.

    Raises BadDocumentError if it is empty, not UTF-8 or JSON lines, and DataError if it is not JSON with the key
    `text_key`.
    """
    if isinstance(record.content, bytes) and not record.is_json:
        refuse_wide(record.content, record.origin, BadDocumentError)
        _refuse_json_lines(record.content, record.origin)
    try:
        text = record.content if isinstance(record.content, str) else record.content.decode("utf-8-sig")
        text = (_value(text, record.origin, text_key) if record.is_json else text).removeprefix("\ufeff")
        text.encode()  # JSON can spell half a surrogate pair
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BadDocumentError(f"{record.origin} is not UTF-8 ({error.reason})") from error
    if not text or text.isspace():
        raise BadDocumentError(f"{record.origin} is empty")
    return text


def _value(text: str, origin: str, text_key: str) -> str:
    """Return the text under a key of a JSON object, or "" for null."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{origin} is not JSON ({error.msg if isinstance(error, JSONDecodeError) else error})"
        ) from error
    if not isinstance(fields, dict) or text_key not in fields:
        found = ", ".join(fields)[:200] if isinstance(fields, dict) else "no object"
        raise DataError(f"text_key: {origin} has no {text_key}, it has {found}")
    value = "" if fields[text_key] is None else fields[text_key]
    if not isinstance(value, str):
        raise DataError(f"text_key: {text_key} of {origin} is not text")
    return value


def _refuse_json_lines(content: bytes, origin: str) -> None:
    """Refuse a text whose first two lines are JSON objects: a model would learn the syntax of JSON."""
    start = content.removeprefix(BOM_UTF8).lstrip() if content[:100].lstrip(BOM_UTF8 + b" \t\r\n")[:1] == b"{" else b""
    lines = start.split(b"\n", 2)[:2]
    if len(lines) == 2 and all(map(is_object, lines)):
        raise BadDocumentError(f"{origin} holds JSON lines; name it .jsonl, so that its records are read")


class Source(ABC):
    """A sequence of documents that is the same whenever it is read."""

    identity: dict[str, Any]  # settings that decide the documents and their order
    left_out: str = ""  # which parts of the source are not read, in words
    share_read: float | None = 0.0  # share of the source that was read, in [0, 1]; None if its size is not known

    @abstractmethod
    def records(self, start: int) -> Iterator[Record]:
        """Yield the documents in a fixed order, from number `start` on. Raises DataError if one cannot be read."""


class FileSource(Source):
    """Local files, one after the other. Messages name them relative to `root`, if it is given."""

    def __init__(self, name: str, paths: Sequence[Path], text_key: str, root: str = ""):
        self.paths = paths
        self.root = root
        self.text_key = text_key
        self.sizes = [path.stat().st_size for path in paths]
        listing = [[self._name(path), size] for path, size in zip(paths, self.sizes, strict=True)]
        digest = sha256(json.dumps(listing).encode()).hexdigest()
        self.identity = {"source": name, "files": len(paths), "bytes": sum(self.sizes), "names_and_sizes": digest}
        if tables := sum(_format(path) in (".json", ".csv", ".tsv") for path in paths):
            self.identity["json_and_csv"] = tables  # shards that were begun when these were texts are refused
        if text_key != "text" and not any(_format(path) in RECORDS for path in paths):
            raise DataError(f"text_key: must be left out, as {name} holds no records, got {text_key}")
        for path in paths:
            if {path.suffix.lower(), _format(path)} & COMPRESSED:
                raise DataError(f"source: {path} is not read, only .gz and .zst are; decompress it")
            if _format(path) == ".parquet":
                if path.suffix.lower() != ".parquet":
                    raise DataError(f"source: {path} is not read, a .parquet file can't be compressed; decompress it")
                self._parquet(path)  # a missing column is an error before anything is written

    def records(self, start: int) -> Iterator[Record]:
        before, total = 0, max(1, sum(self.sizes))
        for path, size in zip(self.paths, self.sizes, strict=True):
            documents = self._count(path)
            if documents is not None and start >= documents:
                start -= documents
            else:
                try:
                    for record, position in self._read(path):
                        if start:
                            start -= 1
                            continue
                        self.share_read = (before + position) / total
                        yield record
                except (OSError, EOFError, zlib.error) as error:  # read errors of pyarrow are OSErrors
                    raise DataError(f"source: {path} could not be read ({error})") from error
            before += size

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.root) if self.root else str(path)

    def _count(self, path: Path) -> int | None:
        """The number of documents in a file, or None if only reading it would tell."""
        if _format(path) == ".parquet":
            return self._parquet(path).metadata.num_rows
        return None if _format(path) in RECORDS else 1

    def _read(self, path: Path) -> Iterator[tuple[Record, float]]:
        """Yield documents, each with the number of bytes of the file that are read so far."""
        origin = self._name(path)
        if _format(path) == ".parquet":
            file, row, size = self._parquet(path), 0, path.stat().st_size
            for batch in file.iter_batches(1024, columns=[self.text_key]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield Record(f"{origin}:{row}", text or ""), size * row / file.metadata.num_rows
            return
        with path.open("rb", buffering=0) as raw, _decompress(path, raw) as content:
            for record in read_records(content, origin, _format(path), self.text_key):
                yield record, raw.tell()

    def _parquet(self, path: Path) -> Any:
        parquet, pyarrow = require("pyarrow.parquet"), require("pyarrow")
        try:
            file = parquet.ParquetFile(path)
        except pyarrow.ArrowException as error:
            raise DataError(f"source: {path} is not a parquet file ({error})") from error
        columns = {field.name: str(field.type) for field in file.schema_arrow}
        if columns.get(self.text_key) not in ("string", "large_string", "string_view"):
            found = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
            raise DataError(f"text_key: {path} has no text column {self.text_key}, it has {found}")
        return file


class HubSource(Source):
    """A data set of the Hugging Face hub, streamed at the commit that `revision` names now."""

    share_read = None

    def __init__(self, name: str, config: str | None, split: str, revision: str, text_key: str):
        self.text_key = text_key
        self.name = name
        datasets, hub = require("datasets"), require("huggingface_hub")
        try:
            commit = hub.HfApi().dataset_info(name, revision=revision, timeout=30).sha
            self.rows = datasets.load_dataset(name, config, split=split, revision=commit, streaming=True)
        except Exception as error:
            raise self._unreachable(error) from error
        self.identity = {"source": name, "config": config, "split": split, "revision": commit}

    def records(self, start: int) -> Iterator[Record]:
        rows = iter(self.rows.skip(start))
        number = start
        while True:
            try:
                row = next(rows, None)
            except Exception as error:
                raise self._unreachable(error) from error
            if row is None:
                return
            number += 1
            if self.text_key not in row:
                raise DataError(f"text_key: {self.name} has no {self.text_key}, it has {', '.join(row)}")
            yield Record(f"{self.name}:{number}", row[self.text_key] or "")

    def _unreachable(self, error: Exception) -> DataError:
        """Make one error of the many kinds that the hub's libraries raise."""
        reason = " ".join(str(error).split())
        return DataError(f"source: {self.name} could not be read from the Hugging Face hub ({reason})")


def open_source(name: str, text_key: str, config: str | None, split: str, revision: str) -> Source:
    """Open the source that `name` stands for (see the top of this file). Raises DataError if there is none."""
    path = Path(name)
    files, left_out = ([], "") if name == "stdlib" else list_files(name)
    if files or name == "stdlib":
        _refuse_hub_options(name, config, split, revision)
        opened = FileSource(name, files, text_key) if files else _standard_library(text_key)
        opened.left_out = left_out
        return opened
    if path.is_dir() or path.parent.is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(f"source: must be a file, a folder with files, an owner/name of the hub, or stdlib, got {name}")
    return HubSource(name, config, split, revision, text_key)


def _refuse_hub_options(name: str, config: str | None, split: str, revision: str) -> None:
    """Refuse options of the hub, which other sources would ignore."""
    for option, value, default in (
        ("hub_config", config, None),
        ("hub_split", split, "train"),
        ("hub_revision", revision, "main"),
    ):
        if value != default:
            raise DataError(f"{option}: must be left out, as {name} is not on the hub, got {value}")


def _standard_library(text_key: str) -> Source:
    """The modules of the standard library without their tests: 12 MB of text, without a download."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "test", "tests", "idle_test"}
    files = [path for path in sorted(root.rglob("*.py")) if not left_out & set(path.relative_to(root).parts)]
    version = ".".join(map(str, sys.version_info[:3]))
    return FileSource(f"stdlib {version}", [path for path in files if path.stat().st_size], text_key, str(root))


def _format(path: Path) -> str:
    """The ending that says what a file holds, in lower case."""
    return (path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path).suffix.lower()


def _decompress(path: Path, raw: io.FileIO) -> io.BufferedReader:
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), 2**16)
    if path.suffix.lower() == ".zst":
        pyarrow = require("pyarrow")  # reports a truncated file, unlike the zstandard library
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))
    return io.BufferedReader(raw)
