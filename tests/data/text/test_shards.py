import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError, FineWeb
from data.text.shards import Manifest, Shard, ShardWriter, TokenStream


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_reading_across_shards_against_one_array(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("shards")
    tokens = np.arange(sum(sizes), dtype=np.uint32) + 70_000
    shards = []
    for i, part in enumerate(np.split(tokens, np.cumsum(sizes)[:-1])):
        part.tofile(folder / f"{i}.bin")
        shards.append(Shard(f"{i}.bin", len(part), 1, ""))
    length = data.draw(st.integers(1, len(tokens)))
    starts = data.draw(st.lists(st.integers(0, len(tokens) - length), max_size=5))
    stream = TokenStream(folder, shards, "uint32")
    for reader in (stream, pickle.loads(pickle.dumps(stream))):
        assert len(reader) == len(tokens)
        want = [tokens[start : start + length].tolist() for start in starts]
        assert reader.read(starts, length).tolist() == want
    assert len(pickle.dumps(stream)) < 2000  # no tokens inside


@pytest.fixture
def shards(write_shards, tmp_path):
    return write_shards(tmp_path / "shards", [[[5] * 99], [[6] * 99]], [[[7] * 99]])


def open_and_verify(folder, **options):
    data = FineWeb(str(folder), batch_size=2, context=8, **{"tokenizer": "data/mistral_v1", **options})
    data.prepare_data()
    return data


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def test_whole_shards_pass(shards):
    assert open_and_verify(shards).vocab_size == 32000


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00001.bin", "validation-00000.bin"])
def test_damage_to_a_shard_is_found_and_named(shards, name):
    path, whole = shards / name, (shards / name).read_bytes()
    flipped = bytearray(whole)
    flipped[77] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(DataError, match=rf"{name} is damaged: its sha256"):
        open_and_verify(shards)
    open_and_verify(shards, verify=False)
    path.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=rf"{name} has 198 bytes, the manifest says 200"):
        open_and_verify(shards, verify=False)
    path.unlink()
    with pytest.raises(DataError, match=rf"{name} is missing"):
        open_and_verify(shards)


def test_shards_of_another_tokenizer(shards, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(DataError, match=r"data.tokenizer: .* was made with data/mistral_v1 \(sha256 dadfd56d\), not"):
        open_and_verify(shards, tokenizer=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "is damaged"),
        (lambda text: text.replace('"eos"', '"end"'), "is damaged"),
        (lambda text: text.replace("uint16", "uint32"), "says uint32 for a vocabulary of 32000"),
    ],
)
def test_a_damaged_manifest(shards, change, message):
    path = shards / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        open_and_verify(shards)


def test_a_folder_that_is_not_whole(shards):
    (shards / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"holds no manifest.json; python -m data.prepare --out="):
        open_and_verify(shards)
    (shards / "progress.json").write_text("{}")
    with pytest.raises(DataError, match="is not finished"):
        open_and_verify(shards)


def test_a_full_disk_is_named_and_leaves_no_shard(tmp_path):
    path = tmp_path / "train-00000.bin"
    path.with_name("train-00000.bin.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"train-00000.bin could not be written \(No space left on device\)"):
        ShardWriter(path).write(np.zeros(10, np.uint16), 1)
    assert not path.exists()


def test_the_digest_names_the_tokens(shards):
    manifest = Manifest.load(shards)
    fields = json.loads((shards / "manifest.json").read_text())
    fields["splits"]["train"][0]["sha256"] = "0" * 64
    (shards / "manifest.json").write_text(json.dumps(fields))
    assert Manifest.load(shards).digest != manifest.digest
