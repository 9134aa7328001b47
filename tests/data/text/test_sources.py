"""Which documents a source has: by the ending and content of its files, and which files are none."""

import csv
import gzip
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError
from data.text import records
from data.text.listing import POINTER
from data.text.prepare import prepare
from data.text.shards import Manifest, ShardWriter
from data.text.sources import BadDocumentError, open_source, text_of

TEXTS = ['one "quoted",\n  line', "café 漢字", "[1, {}]", "\\u00e9 \t x", "last"]
OBJECTS = [{"id": i, "content": text} for i, text in enumerate(TEXTS)]
BOM = b"\xef\xbb\xbf"


def lines(objects):
    return "\n".join(map(json.dumps, objects)).encode()


def table(separator):
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows([["id", "content"], *([x["id"], x["content"]] for x in OBJECTS)])
    return file.getvalue().encode()


def documents(source, text_key="text", start=0):
    opened = open_source(str(source), text_key, None, "train", "main")
    return [text_of(record, text_key) for record in opened.records(start)]


@pytest.mark.parametrize("mark", [b"", BOM], ids=["", "mark"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", lines(OBJECTS)),
        ("a.json", b"\n \r\n" + lines(OBJECTS).replace(b"\n", b"\r\n\r\n") + b"\n"),
        ("a.JSON.GZ", lines(OBJECTS)),
        ("a.JSONL", lines(OBJECTS)),
        ("a.jsonlines", lines(OBJECTS)),
        ("a.json", json.dumps(OBJECTS).encode()),
        ("a.json", json.dumps(OBJECTS, indent=2, ensure_ascii=False).encode()),
        ("a.json.gz", json.dumps(OBJECTS, separators=(",", ":")).encode()),
        ("a.csv", table(",")),
        ("a.TSV", table("\t")),
    ],
)
def test_records_are_read_by_content(name, content, mark, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.compress(mark + content) if name.lower().endswith("gz") else mark + content)
    for start in range(len(TEXTS) + 1):
        assert documents(path, "content", start) == TEXTS[start:]
    with pytest.raises(DataError, match=r"text_key: .* no text, it has id, content"):
        documents(path)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.json", json.dumps(TEXTS), TEXTS),
        ("a.json", "[ ]", []),
        ("a.json", "", []),
        ("a.json", '{"text": "x"}', ["x"]),
        ("a.json", '{\n "text": "x"\n}\n', ["x"]),
        ("a.txt", '{"text": "x"}', ['{"text": "x"}']),  # one line of JSON may be a text
        ("a.txt", "\ufeffx", ["x"]),
        ("a.json", '{"text": "\\ufeffx"}', ["x"]),
        ("a.csv", "text\nx\n\n\ny", ["x", "y"]),
    ],
)
def test_other_contents(name, content, texts, tmp_path):
    (tmp_path / name).write_text(content)
    assert documents(tmp_path / name) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"text": "x"}\n{"text": ', "a.json:2 is not JSON"),
        ("a.json", b'{"text": "x"}{"text": "y"}', "a.json is not JSON (Extra data)"),
        ("a.json", b'{"text":\n"x"}\n{"text": "y"}', "a.json is not JSON (Extra data)"),
        ("a.json", b"7\n8", "a.json holds neither JSON objects nor an array"),
        ("a.json", b"text", "a.json holds neither JSON objects nor an array"),
        ("a.json", b'["x", 7]', "a.json[2] is neither an object nor a string"),
        ("a.json", b'["x", "y', "a.json[2] is not JSON (Unterminated string"),
        ("a.json", b'["x" "y"]', 'a.json is not JSON (expected ,, found ")'),
        ("a.json", b'["x"', "a.json is not JSON (expected ,, found its end)"),
        ("a.json", b'["x"] []', "a.json is not JSON (more follows the array)"),
        ("a.json", b'["caf\xe9"]', "a.json is not UTF-8"),
        ("a.json", b'{"text": "x", "n": ' + b"[" * 10**5, "a.json is not JSON"),
        ("a.jsonl", b'{"n": ' + b"7" * 5000 + b"}", "a.jsonl:1 is not JSON"),
        ("a.jsonl", b'["x"]', "text_key: a.jsonl:1 has no text, it has no object"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "a.jsonl is UTF-16"),
        ("a.csv", "text\nx".encode("utf-16"), "a.csv is UTF-16"),
        ("a.txt", "x".encode("utf-16"), "a.txt is UTF-16"),
        ("a.txt", "some text".encode("utf-16-le"), "a.txt is UTF-16"),
        ("a.txt", b'{"text": "x"}\n{"text": "y"}', "a.txt holds JSON lines; name it .jsonl"),
        ("a.csv", b"", "text_key: a.csv has no text"),
        ("a.csv", b"id;text\n1;x", "text_key: a.csv has no text, it has id;text"),
        ("a.csv", b"text,text\nx,y", "text_key: a.csv has 2 text"),
        ("a.csv", b"id,text\n1,x, y", "a.csv:2 has 3 columns, the first line 2"),
        ("a.csv", b'id,text\n1,"x', "a.csv:2 can't be read as a table in UTF-8 (unexpected end of data)"),
        ("a.csv", b"id,text\n1,caf\xe9 x", "can't be read as a table in UTF-8 (invalid continuation byte)"),
        ("a.jsonl.bz2", b"BZh9", "a.jsonl.bz2 is not read, only .gz and .zst are"),
        ("a.tar.gz", gzip.compress(b"x"), "a.tar.gz is not read"),
        ("a.parquet.gz", gzip.compress(b"x"), "a.parquet.gz is not read"),
        ("a.jsonl", POINTER + b"oid sha256:0\n", "git lfs pull"),
        (
            "a.txt",
            POINTER + b"oid sha256:0\n",
            "a.txt is a Git LFS pointer, not the file itself; git lfs pull fetches it",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "",
)
def test_what_is_not_sure_is_refused_in_one_line(name, content, message, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        documents(name)
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


elements = st.one_of(st.text(max_size=9), st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=3))


@settings(max_examples=100, deadline=None)
@given(st.lists(elements, max_size=6), st.integers(1, 40), st.booleans())
def test_an_array_in_any_chunks(array, chunk, ascii_only):
    content = json.dumps(array, ensure_ascii=ascii_only, indent=1 if chunk % 2 else None).encode(errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "CHUNK", chunk)
        got = list(records.json_array(io.BytesIO(content), "a", "text"))
    assert [json.loads(record.content) if record.is_json else record.content for record in got] == array


def test_an_array_is_not_read_whole(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 10**5}] * 300))
    source = open_source(str(tmp_path / "a.json"), "text", None, "train", "main")
    tracemalloc.start()
    assert sum(1 for _ in source.records(0)) == 300
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * 2**20


def folder_with_other_files(path):
    for i in range(40):
        (path / f"{i:02}.txt").parent.mkdir(exist_ok=True, parents=True)
        (path / f"{i:02}.txt").write_text(f"document {i}")
    for name in (
        ".git/objects/ab",
        ".gitattributes",
        "b/.ipynb_checkpoints/00.txt",
        ".DS_Store",
        "README.md",
        "b/readme",
    ):
        (path / name).parent.mkdir(exist_ok=True, parents=True)
        (path / name).write_text("no document")
    (path / "99.txt").write_bytes(POINTER + b"oid sha256:0\n")
    (path / "98.txt").symlink_to("nowhere")


def test_other_files_of_a_folder_are_left_out_and_counted(tmp_path, capsys, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    folder_with_other_files(tmp_path / ".cache/pages")  # hidden folders above do not count
    prepare(str(tmp_path / ".cache/pages"), str(tmp_path / "out"), validation_fraction=0, workers=1)
    assert Manifest.load(tmp_path / "out").splits["train"][0].documents == 40
    said = "pages: not read: 1 Git LFS pointer, 2 READMEs, 1 broken link or device, 4 hidden files (git lfs pull"
    assert said in capsys.readouterr().out.splitlines()[0]
    with pytest.raises(DataError, match=r"holds no documents \(not read: 1 folder, 1 hidden file\)"):
        documents(tmp_path / ".cache/pages/.git*")
    assert len(documents(tmp_path / ".cache/pages/README.md")) == 1  # it is named


def test_a_pattern_counts_what_it_matches_and_does_not_read(tmp_path):
    folder_with_other_files(tmp_path)
    source = open_source(f"{tmp_path}/*", "text", None, "train", "main")
    assert source.left_out.startswith("not read: 1 Git LFS pointer, 1 README, 1 broken link or device, 1 folder")
    assert sum(1 for _ in source.records(0)) == 40


def test_options_that_a_source_would_ignore_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for source in (str(tmp_path), "stdlib"):
        for options, name in (
            (("content", None, "train", "main"), "text_key"),
            (("text", "small", "train", "main"), "hub_config"),
            (("text", None, "test", "main"), "hub_split"),
            (("text", None, "train", "v1"), "hub_revision"),
        ):
            with pytest.raises(DataError, match=f"^{name}: "):
                open_source(source, *options)
    (tmp_path / "b.json").write_text('["x"]')
    with pytest.raises(DataError, match=r"text_key: .*b\.json\[1\] is a string, which has no content"):
        documents(tmp_path, "content")


def test_bad_documents_among_texts_can_be_skipped(tmp_path):
    (tmp_path / "a.txt").write_bytes("x".encode("utf-16"))
    (tmp_path / "b.txt").write_bytes(BOM)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(BadDocumentError):
            documents(path)


@pytest.mark.slow
def test_interrupted_among_records_the_same_command_continues(tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    source = tmp_path / "source"
    source.mkdir()
    many = [f"document {i} " + "word " * (i % 200) for i in range(3000)]
    (source / "a.json").write_text(json.dumps([{"text": text} for text in many]))
    with gzip.open(source / "b.json.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in many)
    (source / "c.CSV").write_text("text\n" + "\n".join(many))
    options = {"source": str(source), "shard_tokens": 150_000, "validation_fraction": 0.1}
    prepare(**options, out=str(tmp_path / "whole"), workers=1)
    write, cut = ShardWriter.write, tmp_path / "cut"

    def interrupted(self, ids, documents):
        write(self, ids, documents)
        if self.path.name == "train-00002.bin":
            raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(**options, out=str(cut), workers=2)
    monkeypatch.setattr(ShardWriter, "write", write)
    prepare(**options, out=str(cut), workers=2)
    whole, got = Manifest.load(tmp_path / "whole"), Manifest.load(cut)
    assert got == whole and len(whole.splits["train"]) > 3
    assert sum(shard.documents for shards in got.splits.values() for shard in shards) == 9000
