import gzip
import json
import signal
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data import DataError
from data.text.encode import BATCH_BYTES, Recipe, batches, encode
from data.text.one_writer import one_writer
from data.text.prepare import prepare
from data.text.shards import Manifest
from data.text.sources import Record
from data.text.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def texts(n):
    draw = np.random.default_rng(1)
    return [f"document {i}\n" + "  word é" * draw.integers(1, 50) for i in range(n)]


def as_jsonl(folder, documents):
    lines = [json.dumps({"text": text, "url": i}).encode() for i, text in enumerate(documents)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines[:10]) + b"\n\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines[10:20])))
    with pyarrow.CompressedOutputStream(str(folder / "c.ndjson.zst"), "zstd") as file:
        file.write(b"\n".join(lines[20:]))


def as_parquet(folder, documents):
    for name, part in (("a", documents[:25]), ("b", documents[25:])):
        table = pyarrow.table({"id": range(len(part)), "text": part})
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=7)


def as_text(folder, documents):
    for i, text in enumerate(documents):
        (folder / f"{i:02}.txt").write_text(text)


def documents_in(folder, split):
    """Token ids of each document, read back from the shards."""
    manifest = Manifest.load(folder)
    documents = []
    for shard in manifest.splits[split]:
        ids = np.fromfile(folder / shard.file, manifest.dtype)
        ends = np.flatnonzero(ids == manifest.eos)
        assert len(ids) == shard.tokens and len(ends) == shard.documents and ends[-1] == len(ids) - 1
        documents += [part[part != manifest.eos].tolist() for part in np.split(ids, ends[:-1] + 1)]
    return documents


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_text])
def test_shards_hold_every_document_in_order(write, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    documents = texts(40)
    write(source, documents)
    prepare(str(source), str(tmp_path / "out"), validation_fraction=0.3, workers=1)
    Manifest.load(tmp_path / "out").verify(tmp_path / "out")
    kept_out = [int(blake2b(text.encode(), digest_size=8).hexdigest(), 16) < 0.3 * 2**64 for text in documents]
    tokenizer = load_tokenizer("data/mistral_v1")
    for split, wanted in (("train", False), ("validation", True)):
        chosen = [text for text, kept in zip(documents, kept_out, strict=True) if kept == wanted]
        assert len(chosen) > 5
        assert documents_in(tmp_path / "out", split) == [ids.tolist() for ids in tokenizer.encode(chosen)]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Dies without a warning, its workers busy, once it has begun to write the shard that its first argument names.
KILLED = """
import os, signal, sys
from data.text import prepare, shards
write, shard = shards.ShardWriter.write, sys.argv.pop(1)
def write_until_killed(self, ids, documents):
    write(self, ids, documents)
    if self.path.name == shard:
        os.kill(os.getpid(), signal.SIGKILL)
shards.ShardWriter.write = write_until_killed
prepare.main()
"""


@pytest.mark.slow
def test_killed_and_resumed_it_writes_the_same_shards_with_any_number_of_workers(tmp_path):
    options = ["--source=stdlib", "--validation_fraction=0.03", "--shard_tokens=300_000"]
    command = [sys.executable, "-m", "data.prepare", *options]
    subprocess.run([*command, f"--out={tmp_path}/whole", "--workers=1"], check=True, stdout=subprocess.DEVNULL)
    cut = tmp_path / "cut"
    for shard in ("train-00001.bin", "train-00004.bin"):
        killed = [sys.executable, "-c", KILLED, shard, *options, f"--out={cut}", "--workers=2"]
        # returns when its workers, who hold the pipe too, have ended
        process = subprocess.run(killed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        assert process.returncode == -signal.SIGKILL, process.stdout
        assert (cut / f"{shard}.partial").exists() and not (cut / "manifest.json").exists()
    done = subprocess.run([*command, f"--out={cut}", "--workers=2"], check=True, capture_output=True, text=True)
    assert "continuing after" in done.stdout
    assert files(cut) == files(tmp_path / "whole")
    again = subprocess.run([*command, f"--out={cut}"], check=True, capture_output=True, text=True)
    assert "is complete" in again.stdout


def test_batches_depend_on_the_documents_alone():
    records = [Record(str(i), b"x" * size) for i, size in enumerate([5, BATCH_BYTES, 3, 2 * BATCH_BYTES, 1])]
    assert [[int(record.origin) for record in batch] for batch in batches(records)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty; --bad_documents=skip"),
        ("a.txt", b" \n", "a.txt is empty"),
        ("a.txt", b"caf\xe9", "a.txt is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": null}', "a.jsonl:2 is empty"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"', "a.jsonl:1 is not JSON"),
        ("a.jsonl", b'{"content": "x", "id": 1}', "a.jsonl:1 has no text, it has content, id"),
        ("a.jsonl", b'{"text": 7}', "a.jsonl:1 is not text"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-9], "a.jsonl.gz could not be read"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", "a.jsonl.zst could not be read"),
        ("a.parquet", b"PAR1", "a.parquet is not a parquet file"),
        ("a.jsonl", b"\n", "no document has text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line_that_names_the_document(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        prepare(str(tmp_path / name), str(tmp_path / "out"), workers=1)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_a_parquet_file_without_the_text_column(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"content": ["x"], "text": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no text column text, it has content \(string\), text \(int64\)"):
        prepare(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_bad_documents_can_be_skipped_and_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n{"text": ""}\n{"text": "caf\xe9"}\n{"text": "y"}')
    prepare(str(tmp_path / "a.jsonl"), str(tmp_path / "out"), bad_documents="skip", validation_fraction=0, workers=1)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.skipped == 2 and manifest.splits["train"][0].documents == 2


def test_an_id_outside_the_vocabulary_is_refused():
    tokenizer = load_tokenizer("data/mistral_v1")
    tokenizer.vocab_size = 1000
    recipe = Recipe("ours", "text", 0.0, False)
    with pytest.raises(
        DataError, match=r"tokenizer: ours gives id \d+ between a and b, outside its vocabulary of 1000"
    ):
        encode(tokenizer, [Record("a", b"zebra crossing"), Record("b", b"x")], recipe)


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-00000.bin.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        prepare(str(tmp_path / "a.txt"), str(out), validation_fraction=0, workers=1)
    assert not list(out.iterdir())
    prepare(str(tmp_path / "a.txt"), str(out), validation_fraction=0, workers=1)
    assert len(documents_in(out, "train")) == 1


def test_other_settings_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    options = {"source": str(tmp_path / "a.txt"), "out": str(tmp_path / "out"), "workers": 1}
    prepare(**options, validation_fraction=0)
    with pytest.raises(DataError, match=r"was made with validation_fraction 0, now it is 0.5"):
        prepare(**options, validation_fraction=0.5)
    (tmp_path / "a.txt").write_text("some other text")
    with pytest.raises(DataError, match=r"was made with bytes 9, now it is 15"):
        prepare(**options, validation_fraction=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--source=nothing.jsonl"],
            "source: must be a file, a folder with files, an owner/name of the hub, or stdlib, got no",
        ),
        (["--validation_fraction=1"], "validation_fraction: must lie in [0, 1), got 1.0"),
        (["--workers=0"], "workers: must be at least 1, got 0"),
        (["--colour=red"], "colour"),
    ],
)
def test_the_command_line_exits_with_one_line(options, message, tmp_path):
    command = [sys.executable, "-m", "data.prepare", f"--out={tmp_path}/out", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_write_the_same_shards(tmp_path):
    as_text(tmp_path, texts(2))
    out, options = tmp_path / "out", {"validation_fraction": 0.0, "workers": 1}
    out.mkdir()
    with one_writer(out), pytest.raises(DataError, match="out: another process is writing to"):
        prepare(f"{tmp_path}/*.txt", str(out), **options)
    assert not list(out.iterdir())
    prepare(f"{tmp_path}/*.txt", str(out), **options)


def test_the_hub_through_a_stand_in(tmp_path, monkeypatch):
    """datasets and the hub are replaced: what is asked of them, what comes of their errors."""
    rows = [{"text": text} for text in texts(6)]

    class Rows(list):
        def skip(self, n):
            return self[n:]

    class Hub:
        def HfApi(self):
            return self

        def dataset_info(self, name, revision, timeout):
            self.sha = f"commit of {name} {revision}"
            return self

        def load_dataset(self, name, config, split, revision, streaming):
            assert streaming and (name, config, split) == ("owner/set", "small", "train")
            assert revision == "commit of owner/set main"
            return Rows(rows)

    hub = Hub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    options = {"hub_config": "small", "validation_fraction": 0.0, "workers": 1}
    prepare("owner/set", str(tmp_path / "out"), **options)
    assert len(documents_in(tmp_path / "out", "train")) == 6
    assert Manifest.load(tmp_path / "out").settings["revision"] == "commit of owner/set main"
    rows.append({"body": "x"})
    with pytest.raises(DataError, match="text_key: owner/set has no text, it has body"):
        prepare("owner/set", str(tmp_path / "other"), **options)

    def unreachable(*_, **__):
        raise OSError("no route\nto host")

    hub.dataset_info = unreachable
    with pytest.raises(DataError, match=r"owner/set could not be read from the Hugging Face hub \(no route to host\)"):
        prepare("owner/set", str(tmp_path / "third"), **options)
    assert not (tmp_path / "third").exists()
