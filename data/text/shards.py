"""Token shards: their format, a writer, checks of size and hash, and reading at any position.

    shards/stdlib/
      manifest.json           tokenizer, vocabulary, dtype; tokens, documents and sha256 of each shard
      train-00000.bin         token ids of training documents, with EOS after each: uint16, or uint32 for
      train-00001.bin         vocabularies above 65,536; a document lies in one shard
      validation-00000.bin

A folder without a manifest is incomplete, because the manifest is written last. Every file is written under another
name first, and renamed when it is complete.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.errors import DataError

SPLITS = ("train", "validation")


def token_dtype(vocab_size: int) -> np.dtype:
    """The dtype of token ids on the disk: little-endian uint16, or uint32 if the vocabulary needs it."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


@dataclass(frozen=True)
class Shard:
    """One file of token ids, as the manifest describes it."""

    file: str
    tokens: int
    documents: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json: how the shards were made, and what they hold."""

    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    eos: int
    dtype: str  # uint16 or uint32, little-endian
    settings: dict[str, Any]  # source and options that decide the content of the shards
    skipped: int  # number of documents that were left out because they were empty or not UTF-8
    splits: dict[str, tuple[Shard, ...]]

    @property
    def digest(self) -> str:
        """Hash of all fields, and so of the shards. It identifies the tokens, their order and their source."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        write_whole(folder / "manifest.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Load the manifest of a folder. Raises DataError if a shard is missing or has another size."""
        path = folder / "manifest.json"
        if not path.is_file():
            state = "is not finished" if (folder / "progress.json").is_file() else "holds no manifest.json"
            raise DataError(f"data.shards: {folder} {state}; python -m data.prepare --out={folder} makes the shards")
        try:
            fields = json.loads(path.read_text())
            fields["splits"] = {name: shards_from_json(fields["splits"][name]) for name in SPLITS}
            manifest = cls(**fields)
            fits = np.dtype(manifest.dtype) == token_dtype(manifest.vocab_size)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"data.shards: {path} is damaged ({error})") from error
        if not fits:
            raise DataError(f"data.shards: {path} says {manifest.dtype} for a vocabulary of {manifest.vocab_size}")
        check_sizes(folder, [shard for shards in manifest.splits.values() for shard in shards], manifest.dtype)
        return manifest

    def verify(self, folder: Path) -> None:
        """Read every shard, several at a time. Raises DataError if a hash differs from the manifest."""

        def check(shard: Shard) -> str | None:
            with (folder / shard.file).open("rb") as file:
                return None if file_digest(file, "sha256").hexdigest() == shard.sha256 else shard.file

        shards = [shard for shards in self.splits.values() for shard in shards]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            damaged = [name for name in pool.map(check, shards) if name]
        if damaged:
            raise DataError(f"data.shards: {folder / damaged[0]} is damaged: its sha256 is not that of the manifest")


def shards_from_json(shards: list[dict[str, Any]]) -> tuple[Shard, ...]:
    return tuple(Shard(**shard) for shard in shards)


def check_sizes(folder: Path, shards: Sequence[Shard], dtype: str) -> None:
    """Raise DataError if a shard is missing or has another size than `shards` say."""
    for shard in shards:
        path, size = folder / shard.file, shard.tokens * np.dtype(dtype).itemsize
        if not path.is_file():
            raise DataError(f"data.shards: {path} is missing")
        if path.stat().st_size != size:
            raise DataError(f"data.shards: {path} has {path.stat().st_size} bytes, the manifest says {size}")


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write JSON such that after a crash the path holds the new content or the old one, never a part.

    Raises DataError if the disk refuses.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


class ShardWriter:
    """Writes one shard. The file gets its name when `close` has brought all of it to the disk."""

    def __init__(self, path: Path):
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.tokens = self.documents = 0
        self._hash = sha256()
        self._file: BinaryIO | None = None

    def write(self, ids: np.ndarray, documents: int) -> None:
        """Append documents: their ids (tokens,), in the dtype of the shard. Raises DataError if the disk refuses."""
        try:
            self._file = self._file or self.partial.open("wb", buffering=0)
            content = memoryview(ids.tobytes())
            self._hash.update(content)
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            self.discard()
            raise _cannot_write(self.path, error) from error
        self.tokens += len(ids)
        self.documents += documents

    def close(self) -> tuple[Shard, ...]:
        """Complete the file and return its shard, or nothing if nothing was written. Raises DataError likewise."""
        if self._file is None:
            return ()
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self.partial.replace(self.path)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        return (Shard(self.path.name, self.tokens, self.documents, self._hash.hexdigest()),)

    def discard(self) -> None:
        """Delete the file if it is not closed."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            self.partial.unlink()


def _cannot_write(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} could not be written ({error.strerror})")


class TokenStream:
    """The tokens of all shards of a split as one sequence. Only the tokens that are asked for are read."""

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str):
        self.paths = [folder / shard.file for shard in shards]
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.ends = np.cumsum([shard.tokens for shard in shards], dtype=np.int64).tolist()
        self._maps: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}  # pickling a memmap would copy its content

    def read(self, starts: Sequence[int], length: int) -> np.ndarray:
        """Read `length` tokens from each of B positions: (B, length), in the dtype of the shards."""
        if self._maps is None:
            self._maps = [np.memmap(path, self.dtype, "r") for path in self.paths]
        rows = np.empty((len(starts), length), self.dtype)
        for row, start in zip(rows, starts, strict=True):
            shard, filled = bisect_right(self.ends, start), 0
            offset = start - (self.ends[shard - 1] if shard else 0)
            while filled < length:  # a row may continue in the next shard
                piece = self._maps[shard][offset : offset + length - filled]
                row[filled : filled + len(piece)] = piece
                shard, offset, filled = shard + 1, 0, filled + len(piece)
        return rows
