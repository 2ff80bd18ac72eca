"""Data elsewhere: tars, Parquet files, folders and lists of a web server and a hub, equal to the same on this disk."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import picture
from loupe.bulk.opening import source_of
from loupe.data.dataset import is_gone, open_dataset
from loupe.data.hashing import content_hashes
from loupe.data.pixels.decoding import EncodedImages
from loupe.data.pixels.store import EncodedStore
from loupe.data.remote import objects
from loupe.data.remote.address import Address
from loupe.data.remote.failures import RefusedError, RemoteError
from loupe.data.remote.store import RemoteObject
from loupe.data.sources.inference_inputs import table_of
from loupe.data.sources.open import open_table
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.remote import _root_of
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, DataError, LoupeError
from loupe.export.export import samples_of
from remote_stores import COMMIT, ObjectServer, running

CLASSES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOUPE_SHARD_CACHE", "1GB")
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch):
    with running({}) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def tar(first: int, count: int, labels=CLASSES) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(first, first + count):
            for name, data in ((f"{i:03}.png", picture(i)), (f"{i:03}.cls", labels[i % 2].encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet(first: int, count: int, *, names=CLASSES) -> bytes:
    rows = [{"image": {"bytes": picture(i), "path": f"{i}.png"}, "label": i % 2} for i in range(first, first + count)]
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())]
        ),
    )
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=5)
    return buffer.getvalue()


def put(server: ObjectServer, folder: Path, files: dict[str, bytes], at: str = "/d/") -> None:
    """Files at the server, and on this disk."""
    for name, data in files.items():
        server.files[at + name] = data
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def assert_equal(found: ImageTable, local: ImageTable) -> None:
    assert found.classes == local.classes
    assert found.labels.tolist() == local.labels.tolist()
    assert found.splits == local.splits
    assert content_hashes(found) == content_hashes(local)
    assert [found.encoded(i) for i in range(len(found))] == [local.encoded(i) for i in range(len(local))]


TARS = {"train-0.tar": tar(0, 6), "train-1.tar": tar(6, 4), "test-0.tar": tar(10, 4)}
PARQUET = {"train-00000-of-00002.parquet": parquet(0, 12), "train-00001-of-00002.parquet": parquet(12, 5)}
PARQUET["test-00000-of-00001.parquet"] = parquet(20, 4)


@pytest.mark.parametrize("files", [TARS, PARQUET], ids=["tars", "parquet"])
def test_shards_of_a_web_server_are_those_of_this_disk(server, tmp_path, files):
    put(server, tmp_path / "d", files)
    found, local = open_table(f"{server.url}/d/"), open_table(tmp_path / "d")
    assert_equal(found, local)
    assert found.name == "d"
    assert [name.rpartition("/")[2] for name in found.paths] == [name.rpartition("/")[2] for name in local.paths]
    assert found.shard_N is not None and local.shard_N is not None
    assert found.shard_N.tolist() == local.shard_N.tolist()
    assert found.elsewhere is not None
    assert set(found.elsewhere.versions) == set(files)


def test_shards_are_fetched_once_and_their_indices_are_kept(server, tmp_path):
    put(server, tmp_path / "d", TARS)
    open_table(f"{server.url}/d/")
    first = len(server.asked)
    server.asked.clear()
    assert open_table(f"{server.url}/d/").encoded(0) == picture(10)
    assert len(server.asked) <= first - len(TARS)  # the listing alone


def test_a_range_of_tars_and_class_names_beside_them(server, tmp_path):
    numbered = {f"p-{k}.tar": tar(4 * k, 4, ("0", "1")) for k in range(3)}
    put(server, tmp_path / "d", {**numbered, "classes.txt": b"cat\ndog"})
    found = open_table(f"{server.url}/d/p-{{0..1}}.tar")
    assert (found.name, len(found), found.classes) == ("p", 8, ("cat", "dog"))
    with pytest.raises(RemoteError, match="p-3"):
        open_table(f"{server.url}/d/p-{{0..4}}.tar")


def test_credentials_of_an_address_are_in_no_message_and_in_no_name_of_images(server, tmp_path):
    put(server, tmp_path / "d", {"p.tar": tar(0, 4)})
    secret = f"{server.url}/d/p.tar?sig=SIGNATURE1".replace("//", "//user:PASSWORD1@")
    dataset = open_dataset(secret)
    run = SimpleNamespace(classes=("cat", "dog"), preprocessing=None)
    told = [dataset.source, dataset.name, *dataset.table.paths, samples_of(run, secret, labelled=True).source]
    failing: list[Callable[[], object]] = [
        lambda: open_table(secret.replace("p.tar", "none.tar")),
        lambda: table_of(secret),
        lambda: table_of(secret.replace("p.tar?", "p.csv#")),
        lambda: table_of(secret.partition("?")[0].replace("p.tar", "p.csv")),
        lambda: source_of([secret, "other"], None, ReadOptions.of(None, None, False)),
    ]
    for fail in failing:
        with pytest.raises(LoupeError) as error:
            fail()
        told.append(str(error.value))
    assert [text for text in told if "PASSWORD1" in text or "SIGNATURE1" in text] == []


@pytest.mark.parametrize("tags", ["strong", ""])
def test_indices_of_files_without_versions_are_not_kept(server, tmp_path, cache, tags):
    put(server, tmp_path / "d", PARQUET)
    put(server, tmp_path / "t", TARS, at="/t/")
    server.tags = tags
    for _ in range(2):
        assert_equal(open_table(f"{server.url}/d/"), open_table(tmp_path / "d"))
        open_table(f"{server.url}/t/")
    indices = cache / "indices"
    assert len([*indices.iterdir()] if indices.exists() else []) == (1 + len(TARS) if tags else 0)


@pytest.mark.parametrize(
    ("signed", "of_file", "of_folder", "raises"),
    [
        (False, 404, None, False),
        (False, 403, None, True),  # the listing has it
        (False, 403, 403, False),  # a store without listing says so of files that do not exist
        (False, 403, 404, False),
        (True, 403, 403, False),
    ],
)
def test_class_names_that_may_not_be_read_are_an_error_where_the_store_lists_them(
    server, tmp_path, signed, of_file, of_folder, raises
):
    put(server, tmp_path / "d", {"p.tar": tar(0, 4, ("0", "1")), "classes.txt": b"cat\ndog"})
    server.refusals = {"/d/classes.txt": of_file} | ({"/d/": of_folder} if of_folder else {})
    address = f"{server.url}/d/p.tar{'?sig=X' if signed else ''}"
    if raises:
        with pytest.raises(RefusedError, match="classes"):
            open_table(address)
    else:
        assert open_table(address).classes == ("0", "1")
        assert not signed or all(path.endswith("?sig=X") for _, path, _ in server.asked)


def test_a_store_that_fails_beside_tars_does_not_change_the_names_of_classes(server, tmp_path, monkeypatch):
    put(server, tmp_path / "d", {"p.tar": tar(0, 4, ("0", "1")), "classes.txt": b"cat\ndog"})
    monkeypatch.setattr(objects.POLICY.__class__, "pause_seconds", lambda *_: 0.0)
    server.refusals = {"/d/classes.txt": 500}
    with pytest.raises(RemoteError, match="500"):
        open_table(f"{server.url}/d/p.tar")
    server.refusals = {}
    assert open_table(f"{server.url}/d/p.tar").classes == ("cat", "dog")


def test_names_of_a_web_server_with_spaces_and_letters_of_any_script_are_those_of_this_disk(server, tmp_path):
    names = ["a b cat.jpg", "é#1.jpg", "猫 100%.jpg", "q?x.jpg"]
    rows = "path,label\n" + "".join(f"{name},{CLASSES[i % 2]}\n" for i, name in enumerate(names))
    put(server, tmp_path / "my data", {name: picture(i) for i, name in enumerate(names)}, at="/my data/")
    put(server, tmp_path / "my data", {"l.csv": rows.encode()}, at="/my data/")
    local = open_table(tmp_path / "my data" / "l.csv")
    for address in (f"{server.url}/my data/l.csv", f"{server.url}/my%20data/l.csv"):
        found = open_table(address)
        assert_equal(found, local)
        assert (found.paths, found.name) == (local.paths, local.name)
    put(server, tmp_path / "my tars", {"train é 1.tar": tar(0, 4)}, at="/my tars/")
    found, local = open_table(f"{server.url}/my tars/"), open_table(tmp_path / "my tars")
    assert_equal(found, local)
    assert (found.paths, found.name) == (local.paths, "my tars")


@pytest.mark.parametrize("name", ["%2e%2e/x.tar", "..%2Fx.tar", "a%2F..%2F..%2Fx.tar", "%00.tar"])
def test_quoted_names_that_lead_out_of_their_folder_are_refused(monkeypatch, name):
    found = (RemoteObject("http://host/d/ok.tar", 1, "1"), RemoteObject(f"http://host/d/{name}", 1, "1"))
    monkeypatch.setattr("loupe.data.sources.remote.listed", lambda address: found)
    with pytest.raises(DataError, match="no path inside"):
        open_table("http://host/d/")


def test_a_set_larger_than_the_cache_is_read_through_it(server, tmp_path, cache, monkeypatch):
    files = {f"p-{k}.tar": tar(4 * k, 4) for k in range(8)}
    size = len(files["p-0.tar"])
    monkeypatch.setenv("LOUPE_SHARD_CACHE", f"{3 * size}B")
    put(server, tmp_path / "d", files)
    found, local = open_table(f"{server.url}/d/"), open_table(tmp_path / "d")
    assert found.shards is not None and found.shards.exceed_cache
    assert_equal(found, local)
    store = EncodedStore(EncodedImages(found, 8, "crop", "bilinear"), 2)
    rows = np.array([31, 0, 17, 5, 30, 12, 3, 22])
    store.expect(rows)
    assert store.read(rows)[:, 0, 0, 0].tolist() == rows.tolist()
    assert sum(path.stat().st_size for path in (cache / "shards").glob("*.tar")) <= 3 * size
    assert not found.shards.opened._open  # each was closed with the last of its images


def test_parquet_larger_than_the_cache_is_read_through_it(server, tmp_path, monkeypatch):
    files = {f"train-{k}.parquet": parquet(8 * k, 8) for k in range(6)}
    monkeypatch.setenv("LOUPE_SHARD_CACHE", f"{4 * len(files['train-0.parquet'])}B")
    put(server, tmp_path / "d", files)
    found, local = open_table(f"{server.url}/d/"), open_table(tmp_path / "d")
    assert found.shards is not None and found.shards.exceed_cache
    assert_equal(found, local)


def test_single_images_of_a_set_larger_than_the_cache_are_fetched_alone(server, tmp_path, monkeypatch):
    files = {f"p-{k}.tar": tar(20 * k, 20) for k in range(4)}
    monkeypatch.setenv("LOUPE_SHARD_CACHE", f"{2 * len(files['p-0.tar'])}B")
    put(server, tmp_path / "d", files)
    table = open_table(f"{server.url}/d/")
    server.asked.clear()
    assert [table.encoded(i) for i in (0, 79, 41)] == [picture(i) for i in (0, 79, 41)]
    assert len(server.asked) == 3 and all(asked for _, _, asked in server.asked)
    server.files["/d/p-1.tar"] = bytes(len(files["p-1.tar"]))
    with pytest.raises(DataError):
        table.encoded(30)


def test_images_that_are_kept_are_not_fetched_again(server, tmp_path, monkeypatch):
    files = {f"p-{k}.tar": tar(4 * k, 4) for k in range(4)}
    monkeypatch.setenv("LOUPE_SHARD_CACHE", f"{2 * len(files['p-0.tar'])}B")
    put(server, tmp_path / "d", files)
    store = EncodedStore(EncodedImages(open_table(f"{server.url}/d/"), 8, "crop", "bilinear"), 2)
    kept = store.keeping(np.array([3, 9, 14]))
    server.files.clear()
    assert kept.read(np.array([14, 3, 9, 3]))[:, 0, 0, 0].tolist() == [14, 3, 9, 3]
    with pytest.raises(DataError):
        kept.read(np.array([0, 3]))


README = b"""---
configs:
- config_name: small
  data_files:
  - split: train
    path: a/part-0.parquet
  - split: validation
    path: a/part-1.parquet
- config_name: big
  data_files: b/*.parquet
---
"""


def test_a_data_set_on_a_hub_has_the_splits_of_its_configuration_and_its_commit(server, tmp_path):
    files = {"a/part-0.parquet": parquet(0, 6), "a/part-1.parquet": parquet(6, 4), "b/x.parquet": parquet(0, 3)}
    put(server, tmp_path / "d", {**files, "README.md": README}, at="/me/pets/")
    with pytest.raises(DataError, match="small"):
        open_table("hf://datasets/me/pets")
    with pytest.raises(DataError, match="no configuration"):
        open_table("hf://datasets/me/pets#none")
    dataset = open_dataset("hf://datasets/me/pets#small")
    assert dataset.table.splits == ["train"] * 6 + ["val"] * 4
    assert dataset.table.name == "pets"
    assert dataset.source == f"hf://datasets/me/pets@{COMMIT}#small"
    assert not is_gone(dataset.source)
    assert_equal(open_dataset(dataset.source).table, dataset.table)
    assert len(open_table("hf://datasets/me/pets@v1#big")) == 3
    assert len(open_table("hf://datasets/me/pets/a/*-0.parquet")) == 6


def test_the_photographs_of_lesson_4_are_understood_and_fetched_once(server, tmp_path):
    """Layout of microsoft/cats_vs_dogs: a column `labels`, no paths, sorted by class, one split."""
    features = {"image": {"_type": "Image"}, "labels": {"names": CLASSES, "_type": "ClassLabel"}}
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("labels", pa.int64())])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    files = {}
    for number, first in enumerate((0, 4)):
        rows = [{"image": {"bytes": picture(i), "path": None}, "labels": i // 4} for i in range(first, first + 4)]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
        files[f"data/train-0000{number}-of-00002.parquet"] = buffer.getvalue()
    readme = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    put(server, tmp_path / "d", {**files, "README.md": readme}, at="/microsoft/cats_vs_dogs/")
    table = open_table("hf://datasets/microsoft/cats_vs_dogs")
    assert (table.classes, table.labels.tolist()) == (("cat", "dog"), [0] * 4 + [1] * 4)
    assert table.splits == ["train"] * 8
    open_table("hf://datasets/microsoft/cats_vs_dogs")
    assert sum(path.endswith(".parquet") for _, path, _ in server.asked) == 2


def test_class_folders_and_a_list_elsewhere_are_those_of_this_disk(server, tmp_path):
    files = {f"{CLASSES[i % 2]}/{i}.png": picture(i) for i in range(6)}
    put(server, tmp_path / "photos", files, at="/me/photos/")
    found, local = open_table("hf://datasets/me/photos"), open_table(tmp_path / "photos")
    assert_equal(found, local)
    assert (found.name, found.paths) == ("photos", local.paths)
    rows = "path,label\n" + "".join(f"{i}.png,{CLASSES[i % 2]}\n" for i in range(4))
    put(server, tmp_path / "list", {**{f"{i}.png": picture(i) for i in range(4)}, "l.csv": rows.encode()}, at="/list/")
    assert_equal(open_table(f"{server.url}/list/l.csv"), open_table(tmp_path / "list" / "l.csv"))


def test_a_folder_larger_than_the_cache_is_refused_with_the_remedy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_SHARD_CACHE", "10B")
    put(server, tmp_path / "p", {f"{CLASSES[i % 2]}/{i}.png": picture(i) for i in range(4)}, at="/me/photos/")
    with pytest.raises(ConfigError, match="LOUPE_SHARD_CACHE"):
        open_table("hf://datasets/me/photos")


def test_changed_added_and_removed_files_are_named(server, tmp_path):
    put(server, tmp_path / "d", TARS)
    before = open_table(f"{server.url}/d/").elsewhere
    assert before is not None
    before.check(before.versions)
    server.files["/d/train-0.tar"] = tar(50, 2)
    server.files["/d/train-9.tar"] = server.files.pop("/d/train-1.tar")
    after = open_table(f"{server.url}/d/").elsewhere
    assert after is not None
    with pytest.raises(DataError, match=r"(?s)1 file changed \(train-0\.tar\).*removed \(train-1\.tar\).*added"):
        after.check(before.versions)


def test_an_image_of_a_shard_that_changes_while_it_is_read_is_refused(server, tmp_path, monkeypatch):
    put(server, tmp_path / "d", {"a.tar": tar(0, 4), "b.tar": tar(4, 4)})
    monkeypatch.setenv("LOUPE_SHARD_CACHE", f"{len(tar(0, 4))}B")
    table = open_table(f"{server.url}/d/")
    for name in ("/d/a.tar", "/d/b.tar"):
        server.files[name] = tar(90, 4)
    with pytest.raises(RemoteError):
        [table.encoded(i) for i in (0, 7, 0, 7)]


@pytest.mark.parametrize(
    ("address", "root"),
    [
        ("s3://d/d/x-*.tar", "s3://d/"),
        ("https://me:secret@d:8/d/x.csv?d", "https://me:secret@d:8/"),
        ("hf://datasets/d/d@d/d", "hf://datasets/d/d@d/"),
        ("gs://bucket", "gs://bucket/"),
    ],
)
def test_the_root_of_an_address_is_what_its_path_is_relative_to(address, root):
    assert _root_of(Address.of(address)) == root


@pytest.mark.parametrize("name", ["../x.tar", "a/../../x.tar", "/x.tar", "./x.tar"])
def test_names_that_lead_out_of_their_folder_are_refused(monkeypatch, name):
    found = (RemoteObject("s3://bucket/d/ok.tar", 1, "1"), RemoteObject(f"s3://bucket/d/{name}", 1, "1"))
    monkeypatch.setattr("loupe.data.sources.remote.listed", lambda address: found)
    with pytest.raises(DataError, match="no path inside"):
        open_table("s3://bucket/d/")


def test_what_cannot_be_read_from_elsewhere_says_so(server, tmp_path):
    put(server, tmp_path / "d", {"a.zip": b"PK", "a.npz": b"PK"})
    with pytest.raises(DataError, match=r"\.npz"):
        open_table(f"{server.url}/d/")
    with pytest.raises(RemoteError):
        open_table(f"{server.url}/none/")
    with pytest.raises(ConfigError):
        open_table("ftp://host/a.tar")
    with pytest.raises(DataError):
        open_table(f"{server.url}/d/a.npz", ReadOptions({}))
