"""Images in tars and elsewhere are predicted as the same files of this disk."""

import io
import tarfile
import threading
from collections import Counter
from contextlib import contextmanager
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk_predictions import COUNT, UNIT, bulk, names, rows
from loupe.bulk import predict, predict_units, reading, shards
from loupe.bulk.output import Output
from loupe.data.remote import objects
from loupe.data.remote.failures import RemoteError
from loupe.data.remote.retries import RetryPolicy
from loupe.data.remote.shard_cache import ShardCache
from loupe.errors import ConfigError, DataError, DiskError, LoupeError
from remote_stores import ObjectServer


@contextmanager
def served(files):
    server = ObjectServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hasty(monkeypatch):
    """Few attempts, without pauses."""
    policy = RetryPolicy(attempts=2, first_pause_seconds=0.01, longest_pause_seconds=0.01)
    monkeypatch.setattr(objects.read, "__defaults__", (policy,))


@pytest.fixture
def whole(photos, stored, tmp_path):
    bulk(stored, photos, tmp_path / "whole.parquet")
    return rows(tmp_path / "whole.parquet")


def tar_of(photos, paths):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in paths:
            archive.add(path, path.relative_to(photos).as_posix())
    return file.getvalue()


@pytest.fixture
def tars(photos):
    """Two tars, by name; a unit has images of both."""
    files = sorted(photos.rglob("*.png"))
    return {"s-0.tar": tar_of(photos, files[: UNIT + 3]), "s-1.tar": tar_of(photos, files[UNIT + 3 :])}


def same_but_names(table, whole):
    return table.drop_columns("path").equals(whole.drop_columns("path"))


@pytest.mark.parametrize("given", ["s-{0..1}.tar", "s-*.tar", "both"])
def test_images_in_tars_have_the_rows_of_the_files(stored, tmp_path, whole, tars, given):
    for name, data in tars.items():
        (tmp_path / name).write_bytes(data)
    places = [str(tmp_path / name) for name in tars] if given == "both" else [str(tmp_path / given)]
    bulk(stored, places, tmp_path / "out.parquet")
    table = rows(tmp_path / "out.parquet")
    assert same_but_names(table, whole)
    assert table["path"][0].as_py() == f"{tmp_path.as_posix()}/s-0.tar/a/00.png"


@pytest.mark.parametrize("group_rows", [3, 1000])
@pytest.mark.parametrize("kind", ["struct", "bytes"])
def test_images_in_the_rows_of_a_parquet_file_have_the_rows_of_the_files(
    photos, stored, tmp_path, whole, kind, group_rows
):
    files = sorted(photos.rglob("*.png"))
    data = [file.read_bytes() for file in files]
    images = [{"bytes": each, "path": file.name} for each, file in zip(data, files, strict=True)]
    images[4] = {"bytes": None, "path": None}
    column = images if kind == "struct" else [image["bytes"] for image in images]
    file = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": column, "image_id": list(range(COUNT))}), file, row_group_size=group_rows)
    result = bulk(stored, file, tmp_path / "out.parquet")
    table, expected = rows(tmp_path / "out.parquet").to_pylist(), whole.to_pylist()
    assert [row["image_id"] for row in table] == [str(k) for k in range(COUNT)]
    assert [row["content"] for row in table if row["reason"] is None] == [
        row["content"] for k, row in enumerate(expected) if k != 4
    ]
    assert [row["label"] for k, row in enumerate(table) if k != 4] == [
        row["label"] for k, row in enumerate(expected) if k != 4
    ]
    assert result.summary.damaged == 1 and table[4]["reason"] is not None
    assert table[5]["path"] == (files[5].name if kind == "struct" else "images.parquet#5")


def test_a_tar_that_has_changed_ends_the_prediction(stored, tmp_path, whole, tars, monkeypatch):
    for name, data in tars.items():
        (tmp_path / name).write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(Output, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bulk(stored, [str(tmp_path / "s-*.tar")], tmp_path / "out.parquet")
    (tmp_path / "out.parquet.parts" / "part-000001.parquet").unlink()
    (tmp_path / "s-1.tar").write_bytes(tars["s-1.tar"] + bytes(512))
    with pytest.raises(LoupeError, match=r"s-1\.tar"):
        bulk(stored, [str(tmp_path / "s-*.tar")], tmp_path / "out.parquet")


def test_images_on_a_server_have_the_rows_of_the_files(photos, stored, tmp_path, whole):
    files = {f"/photos/{path.parent.name}-{path.name}": path.read_bytes() for path in photos.rglob("*.png")}
    with served({**files, "/photos/notes.txt": b"notes"}) as server:
        server.fault_rate = 0.05
        bulk(stored, [f"{server.url}/photos/*"], tmp_path / "out.parquet")
    table = rows(tmp_path / "out.parquet")
    assert same_but_names(table, whole)
    assert table["path"][0].as_py() == f"{server.url}/photos/a-00.png"


def test_tars_on_a_server_have_the_rows_of_the_files(stored, tmp_path, whole, tars):
    shards.shard_cache.cache_clear()
    with served({f"/{name}": data for name, data in tars.items()}) as server:
        bulk(stored, [f"{server.url}/s-{{0..1}}.tar"], tmp_path / "out.parquet")
    assert same_but_names(rows(tmp_path / "out.parquet"), whole)


@pytest.mark.parametrize("held", [1.2, 2.5])
@pytest.mark.parametrize("small", [False, True])
def test_tars_of_a_unit_may_exceed_the_cache(photos, stored, tmp_path, whole, monkeypatch, held, small):
    files = sorted(photos.rglob("*.png"))
    data = {f"/s-{k}.tar": tar_of(photos, files[4 * k : 4 * k + 4]) for k in range(6)}
    monkeypatch.setenv("LOUPE_SHARD_CACHE", str(int(held * len(data["/s-0.tar"]))))
    monkeypatch.setattr(shards, "ShardCache", partial(ShardCache, wait_seconds=2))
    monkeypatch.setattr(predict_units, "worker_count", lambda: 4)
    monkeypatch.setattr(predict_units, "SMALL_FILE_BYTES", 2**20 if small else 0)
    monkeypatch.setattr("loupe.bulk.models.chunk_images", lambda _: 2)
    shards.shard_cache.cache_clear()
    with served(data) as server:
        bulk(stored, [f"{server.url}/s-{{0..5}}.tar"], tmp_path / "out.parquet", unit=12)
        fetched = Counter(path for method, path, _ in server.asked if method == "GET" and path in data)
    assert same_but_names(rows(tmp_path / "out.parquet"), whole)
    # The size, the index and the images; more where a tar that was read ahead had to make way.
    assert fetched.total() <= 2 * 3 * len(data)


def test_a_tar_that_is_gone_ends_the_prediction(stored, tmp_path, whole, tars, monkeypatch):
    for name, data in tars.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(reading, "PAUSE_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(predict, "written", lambda *_: (tmp_path / "s-1.tar").rename(tmp_path / "kept") and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bulk(stored, [str(tmp_path / "s-*.tar")], tmp_path / "out.parquet")
    with pytest.raises(DiskError, match=r"s-1\.tar"):
        bulk(stored, [str(tmp_path / "s-*.tar")], tmp_path / "out.parquet")


def test_an_image_that_is_gone_is_damaged_and_a_store_that_fails_ends_the_prediction(
    photos, stored, tmp_path, hasty, monkeypatch
):
    files = {f"/photos/{path.name}": path.read_bytes() for path in photos.rglob("*.png")}
    listing, left = objects.listed, []

    def listed_then(address):
        found = listing(address)
        left.append(server.files.pop("/photos/05.png", None))
        return found

    monkeypatch.setattr(shards, "listed", listed_then)
    with served(files) as server:
        place = [f"{server.url}/photos/*.png"]
        result = bulk(stored, place, tmp_path / "out.parquet")
        assert (result.summary.damaged, result.summary.plan.images) == (1, COUNT)
        server.files = dict(files)
        monkeypatch.setattr(shards, "listed", lambda address: (listing(address), setattr(server, "fault_rate", 1.0))[0])
        with pytest.raises(RemoteError):
            bulk(stored, place, tmp_path / "other.parquet")
        server.fault_rate = 0.0
        assert bulk(stored, place, tmp_path / "other.parquet").summary.damaged == 0


def test_tars_beside_other_images_are_refused_and_a_folder_of_them_is_explained(photos, stored, tmp_path, tars):
    (tmp_path / "tars").mkdir()
    tar = tmp_path / "tars" / "s-0.tar"
    tar.write_bytes(tars["s-0.tar"])
    for places in ([str(photos), str(tar)], [str(tar), str(photos / "a" / "00.png")]):
        with pytest.raises(ConfigError, match=r"s-0\.tar"):
            bulk(stored, places, tmp_path / "out.parquet")
    with pytest.raises(DataError, match=r"tars/\*\.tar"):
        bulk(stored, tmp_path / "tars", tmp_path / "out.parquet")
    bulk(stored, [str(tmp_path / "tars" / "*.tar")], tmp_path / "out.parquet")
    assert names(tmp_path) == ["out.parquet", "photos", "tars"]


@pytest.mark.parametrize("address", ["s3://bucket/list.csv", "https://host/a.parquet", "ftp://host/a"])
def test_what_is_not_read_from_elsewhere_is_refused(stored, tmp_path, address):
    with pytest.raises(ConfigError, match=r"list\.csv|a\.parquet|ftp"):
        bulk(stored, [address], tmp_path / "out.parquet")
    with pytest.raises(ConfigError, match="alone"):
        bulk(stored, ["photos", "s3://bucket/photos"], tmp_path / "out.parquet")
    assert names(tmp_path) == []
