"""Documents in one file: JSON lines, a JSON array, a table as CSV, or the whole file.

The ending of a name decides, whatever its case. A .json file may be JSON lines, one array of objects or of strings, or
one object; its beginning decides.
"""

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from data.errors import DataError

LINES = (".jsonl", ".ndjson", ".jsonlines")
TABLES = {".csv": ",", ".tsv": "\t"}  # endings and what separates their columns
RECORDS = (*LINES, *TABLES, ".json", ".parquet")  # endings of files that have a text key
COMPRESSED = {".bz2", ".xz", ".lzma", ".lz4", ".zip", ".7z", ".tar", ".tgz", ".rar", ".br"}  # not read

WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the mark of little-endian UTF-32 begins with the first of these
CHUNK = 2**20
LARGEST_ELEMENT = 2**28  # characters of an element of an array


class Record(NamedTuple):
    """A document as it was read. A worker process decodes it, by `text_of`."""

    origin: str  # file and line, or data set and row; for messages
    content: bytes | str
    is_json: bool = False


def refuse_wide(content: bytes, origin: str, error: type[DataError] = DataError) -> None:
    """Raise an error if content begins as UTF-16 and UTF-32 do: with their mark, or with many zero bytes."""
    start = content[:64]
    if start.startswith(WIDE) or 4 * start.count(0) >= len(start) > 0:
        raise error(f"{origin} is UTF-16, UTF-32 or no text; iconv -f UTF-16 -t UTF-8 converts UTF-16")


def read_records(content: io.BufferedReader, origin: str, ending: str, text_key: str) -> Iterator[Record]:
    """Yield the documents of a file, from its decompressed content.

    Raises DataError if the content is not what the ending says.
    """
    if ending in RECORDS:
        refuse_wide(content.peek(64), origin)
    if ending in LINES:
        yield from json_lines(content, origin)
    elif ending == ".json":
        yield from json_file(content, origin, text_key)
    elif ending in TABLES:
        yield from table(content, origin, TABLES[ending], text_key)
    else:
        yield Record(origin, content.read())


def json_lines(content: BinaryIO, origin: str, first: int = 1) -> Iterator[Record]:
    for number, line in enumerate(content, first):
        if line.removeprefix(codecs.BOM_UTF8).strip():
            yield Record(f"{origin}:{number}", line, is_json=True)


def json_file(content: io.BufferedReader, origin: str, text_key: str) -> Iterator[Record]:
    """Yield the objects of a .json file: of its array, of its lines, or the one that it holds."""
    number = 1 + skip_blank(content)
    if content.peek(1)[:1] == b"[":
        yield from json_array(content, origin, text_key)
        return
    line = content.readline()
    if is_object(line):
        yield Record(f"{origin}:{number}", line, is_json=True)
        yield from json_lines(content, origin, number + 1)
    elif line.startswith(b"{"):
        yield Record(origin, line + content.read(), is_json=True)
    elif line:
        raise DataError(f"{origin} holds neither JSON objects nor an array of them")


def skip_blank(content: io.BufferedReader) -> int:
    """Skip a byte order mark and white space. Return the number of line ends among them."""
    if content.peek(3).startswith(codecs.BOM_UTF8):
        content.read(3)
    lines = 0
    while content.peek(1)[:1] in (b" ", b"\t", b"\r", b"\n"):
        lines += content.read(1) == b"\n"
    return lines


def is_object(line: bytes) -> bool:
    """Whether a line is a whole JSON object."""
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def json_array(content: BinaryIO, origin: str, text_key: str) -> Iterator[Record]:
    """Yield the elements of an array, which must be objects or strings. Memory holds about one of them, or 1 MiB."""
    text = _Text(content, origin)
    text.skip("[")
    if text.next() == "]":
        text.skip("]")
    else:
        number = 0
        while True:
            number += 1
            yield _element(text, f"{origin}[{number}]", text_key)
            if text.next() == "]":
                text.skip("]")
                break
            text.skip(",")
    if text.next():
        raise DataError(f"{origin} is not JSON (more follows the array)")


def _element(text: "_Text", origin: str, text_key: str) -> Record:
    kind = text.next()
    if kind not in ("{", '"'):
        raise DataError(f"{origin} is neither an object nor a string")
    value, source = text.decode(origin)
    if kind == "{":
        return Record(origin, source, is_json=True)
    if text_key != "text":
        raise DataError(f"text_key: {origin} is a string, which has no {text_key}")
    return Record(origin, value)


class _Text:
    """Text of a JSON file, read in chunks. Elements that were decoded are dropped."""

    def __init__(self, content: BinaryIO, origin: str):
        self.content, self.origin = content, origin
        self.utf8 = codecs.getincrementaldecoder("utf-8")()
        self.buffer, self.at = "", 0

    def _decode(self, data: bytes, final: bool) -> str:
        try:
            return self.utf8.decode(data, final)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.origin} is not UTF-8 ({error.reason})") from error

    def more(self) -> bool:
        """Read as much again as the buffer holds, so that few attempts to decode a long element are in vain."""
        data = self.content.read(max(CHUNK, len(self.buffer) - self.at))
        self.buffer, self.at = self.buffer[self.at :] + self._decode(data, not data), 0
        return bool(data)

    def next(self) -> str:
        """Return the next character that is not white space, without taking it; "" at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def skip(self, mark: str) -> None:
        found = self.next()
        if found != mark:
            raise DataError(f"{self.origin} is not JSON (expected {mark}, found {found or 'its end'})")
        self.at += 1

    def decode(self, origin: str) -> tuple[str, str]:
        """Take the next element. Return its value, and its JSON."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.buffer, self.at)
                break
            except json.JSONDecodeError as error:
                if len(self.buffer) - self.at > LARGEST_ELEMENT or not self.more():
                    raise DataError(f"{origin} is not JSON ({error.msg}), or too long; convert it to .jsonl") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{origin} is not JSON ({error})") from error
        source, self.at = self.buffer[self.at : end], end
        return value, source


def table(content: io.BufferedReader, origin: str, separator: str, text_key: str) -> Iterator[Record]:
    """Yield the texts of one column, which the first line names."""
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(content, "utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator, strict=True)
        try:
            names = next(rows, [])
            column = _column(names, text_key, origin)
            for row in filter(None, rows):
                if len(row) != len(names):
                    raise DataError(f"{origin}:{rows.line_num} has {len(row)} columns, the first line {len(names)}")
                yield Record(f"{origin}:{rows.line_num}", row[column])
        except (csv.Error, UnicodeDecodeError) as error:
            reason = error.reason if isinstance(error, UnicodeDecodeError) else error
            raise DataError(f"{origin}:{rows.line_num} can't be read as a table in UTF-8 ({reason})") from error


def _column(names: list[str], text_key: str, origin: str) -> int:
    if names.count(text_key) == 1:
        return names.index(text_key)
    found = names.count(text_key) or "no"
    raise DataError(f"text_key: {origin} has {found} {text_key}, it has {', '.join(names)[:200]}")
