"""Turn documents into token shards: python -m data.prepare --source=HuggingFaceFW/fineweb --out=shards/fineweb

One process reads documents, `workers` processes tokenize them, and the first one writes the tokens in the order of the
documents. The shards therefore do not depend on the number of processes. Whenever a training shard is full,
`progress.json` records how many documents are done. After any interruption, the same command continues from there and
ends with the same shards. `manifest.json` is written last (data/text/shards.py describes the format).
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse import ArgumentError, auto_cli
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data.errors import DataError
from data.text.encode import Encoded, Recipe, encoded_in_order
from data.text.one_writer import one_writer
from data.text.shards import (
    SPLITS,
    Manifest,
    Shard,
    ShardWriter,
    check_sizes,
    shards_from_json,
    token_dtype,
    write_whole,
)
from data.text.sources import Source, open_source
from data.text.tokenizer import DEFAULT_TOKENIZER, Tokenizer, load_tokenizer, tokenizer_sha256


class Preparation:
    """The shards written so far, and the number of documents in them."""

    def __init__(self, out: Path, settings: dict[str, Any], dtype: np.dtype, shard_tokens: int):
        self.out = out
        self.settings = settings
        self.dtype = dtype
        self.shard_tokens = shard_tokens
        self.read = self.skipped = self.tokens = 0  # documents, documents and tokens
        self.splits: dict[str, tuple[Shard, ...]] = dict.fromkeys(SPLITS, ())
        self._restore()
        self._writers = self._next_writers()

    def _restore(self) -> None:
        path = self.out / "progress.json"
        if path.is_file():
            saved = json.loads(path.read_text())
            refuse_other_settings(self.out, saved["settings"], self.settings)
            self.read, self.skipped = saved["read"], saved["skipped"]
            self.splits = {name: shards_from_json(saved["splits"][name]) for name in SPLITS}
            for shards in self.splits.values():
                check_sizes(self.out, shards, self.dtype.name)
        self.tokens = sum(shard.tokens for shards in self.splits.values() for shard in shards)

    def _next_writers(self) -> list[ShardWriter]:
        number = len(self.splits["train"])
        return [ShardWriter(self.out / f"{split}-{number:05}.bin") for split in SPLITS]

    def add(self, encoded: Encoded) -> None:
        for writer, ids, documents in zip(self._writers, encoded.ids, encoded.documents, strict=True):
            if documents:
                writer.write(ids, documents)
            self.tokens += len(ids)
        self.read += encoded.read
        self.skipped += encoded.skipped
        if self._writers[0].tokens >= self.shard_tokens:
            self.close_shards()

    def close_shards(self) -> None:
        """End the shard of both splits at the same document, from which a later process can continue."""
        for split, writer in zip(SPLITS, self._writers, strict=True):
            self.splits[split] += writer.close()
        state = {"settings": self.settings, "read": self.read, "skipped": self.skipped}
        shards = {split: [asdict(shard) for shard in shards] for split, shards in self.splits.items()}
        write_whole(self.out / "progress.json", {**state, "splits": shards})
        self._writers = self._next_writers()

    def discard_partial(self) -> None:
        for writer in self._writers:
            writer.discard()

    def finish(self, tokenizer: Tokenizer) -> Manifest:
        if not self.tokens:
            raise DataError("source: no document has text")
        self.close_shards()
        manifest = Manifest(
            tokenizer=self.settings["tokenizer"],
            tokenizer_sha256=self.settings["tokenizer_sha256"],
            vocab_size=tokenizer.vocab_size,
            eos=tokenizer.eos,
            dtype=self.dtype.name,
            settings=self.settings,
            skipped=self.skipped,
            splits=self.splits,
        )
        manifest.save(self.out)
        (self.out / "progress.json").unlink()
        return manifest


def refuse_other_settings(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in before | now:
        if before.get(key) != now.get(key):
            raise DataError(
                f"out: {out} was made with {key} {before.get(key)}, now it is {now.get(key)}; "
                "choose another folder or delete this one"
            )


def prepare(
    source: str = "stdlib",
    out: str = "shards/stdlib",
    tokenizer: str = DEFAULT_TOKENIZER,
    text_key: str = "text",
    hub_config: str | None = None,
    hub_split: str = "train",
    hub_revision: str = "main",
    validation_fraction: float = 0.001,
    shard_tokens: int = 2**27,
    bad_documents: Literal["refuse", "skip"] = "refuse",
    workers: int = os.cpu_count() or 1,
) -> None:
    """Turn documents into token shards for data.FineWeb. After an interruption, the same command continues.

    Args:
        source: Documents to tokenize: a data set of the Hugging Face hub (HuggingFaceFW/fineweb); a file, a folder or
            a pattern of parquet, jsonl, json, csv or plain text, also as .gz or .zst; or "stdlib" for the modules of
            the running Python.
        out: Folder for the shards.
        tokenizer: Sentencepiece model, tokenizer.json, folder that holds one of them, or name on the hub.
        text_key: Column of parquet and csv files, or key of jsonl and json files, that holds the text.
        hub_config: Configuration of the data set on the hub, such as sample-100BT.
        hub_split: Split of the data set on the hub. It is divided into training and validation documents here.
        hub_revision: Branch, tag or commit of the data set on the hub.
        validation_fraction: Share of the documents that goes to the validation split, chosen by a hash of the text.
        shard_tokens: Number of tokens after which a training shard is closed. A crash loses the work since the last
            closed shard.
        bad_documents: What to do with a document that is empty or not UTF-8: "refuse" stops, "skip" counts it.
        workers: Number of processes that tokenize.

    Raises:
        DataError: if an option, a document or the folder is not what is needed.
    """
    _check_numbers(validation_fraction, shard_tokens, workers)
    console, folder = Console(), Path(out)
    opened = open_source(source, text_key, hub_config, hub_split, hub_revision)
    if opened.left_out:
        console.print(f"{source}: {opened.left_out}", soft_wrap=True, markup=False, highlight=False)
    loaded = load_tokenizer(tokenizer)
    settings = {
        **opened.identity,
        "text_key": text_key,
        "tokenizer": tokenizer,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "validation_fraction": validation_fraction,
        "shard_tokens": shard_tokens,
        "bad_documents": bad_documents,
    }
    if (folder / "manifest.json").is_file():
        manifest = Manifest.load(folder)
        refuse_other_settings(folder, manifest.settings, settings)
        console.print(f"{out} is complete: {_summary(manifest)}", soft_wrap=True)
        return
    _make_folder(folder)
    recipe = Recipe(tokenizer, text_key, validation_fraction, bad_documents == "skip")
    start = time.perf_counter()
    with one_writer(folder):
        preparation = Preparation(folder, settings, token_dtype(loaded.vocab_size), shard_tokens)
        try:
            _tokenize(opened, preparation, recipe, workers, console)
            manifest = preparation.finish(loaded)
        finally:
            preparation.discard_partial()
    console.print(f"{out}: {_summary(manifest)}, {time.perf_counter() - start:.0f} s", soft_wrap=True)


def _check_numbers(validation_fraction: float, shard_tokens: int, workers: int) -> None:
    if not 0 <= validation_fraction < 1:
        raise DataError(f"validation_fraction: must lie in [0, 1), got {validation_fraction}")
    for name, value in (("shard_tokens", shard_tokens), ("workers", workers)):
        if value < 1:
            raise DataError(f"{name}: must be at least 1, got {value}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"out: {folder} could not be created ({error.strerror})") from error


def _tokenize(source: Source, preparation: Preparation, recipe: Recipe, workers: int, console: Console) -> None:
    if preparation.read:
        console.print(f"continuing after {preparation.read:,} documents", soft_wrap=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    before, start = preparation.tokens, time.perf_counter()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=1 if source.share_read is not None else None)
        for encoded in encoded_in_order(source.records(preparation.read), recipe, workers):
            preparation.add(encoded)
            rate = (preparation.tokens - before) / (time.perf_counter() - start)
            description = f"{preparation.read:,} documents, {preparation.tokens:,} tokens, {rate:,.0f} a second"
            progress.update(task, description=description, completed=source.share_read or 0)


def _summary(manifest: Manifest) -> str:
    parts = []
    for split, shards in manifest.splits.items():
        tokens, documents = (sum(getattr(shard, key) for shard in shards) for key in ("tokens", "documents"))
        parts.append(f"{documents:,} {split} documents of {tokens:,} tokens")
    return ", ".join(parts) + (f", {manifest.skipped:,} skipped" if manifest.skipped else "")


def main() -> None:
    try:
        auto_cli(prepare, exit_on_error=False, prog="python -m data.prepare")
    except (ArgumentError, DataError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command continues from here")


if __name__ == "__main__":
    main()
