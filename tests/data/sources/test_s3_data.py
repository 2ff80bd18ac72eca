"""Data in S3 (moto's server): tars, class folders and a list, equal to the same on this disk."""

import io
import tarfile
from pathlib import Path

import pytest

from builders import picture
from loupe.data.dataset import open_dataset
from loupe.data.hashing import content_hashes
from loupe.data.remote.failures import RemoteError
from loupe.data.sources.open import open_table
from loupe.errors import DataError

moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow
CLASSES = ["cat", "dog"]


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch, tmp_path):
    """Client of a bucket of its own, which the environment alone leads to."""
    import boto3

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    values = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**values, "AWS_ENDPOINT_URL": endpoint, "LOUPE_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOUPE_SHARD_CACHE", "1GB")
    found = boto3.resource("s3").Bucket("pets")
    found.create()
    yield found
    found.objects.delete()
    found.delete()


def put(bucket, folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        bucket.put_object(Key=f"d/{name}", Body=data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def tar(first: int, count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(first, first + count):
            for name, data in ((f"{i:03}.png", picture(i)), (f"{i:03}.cls", CLASSES[i % 2].encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_tars_class_folders_and_lists_are_those_of_this_disk(bucket, tmp_path):
    tars = {f"train-{k}.tar": tar(4 * k, 4) for k in range(3)}
    folders = {f"{CLASSES[i % 2]}/{i}.png": picture(i) for i in range(4)}
    rows = "path,label\n" + "".join(f"{i}.png,{CLASSES[i % 2]}\n" for i in range(4))
    listed = {**{f"{i}.png": picture(i) for i in range(4)}, "l.csv": rows.encode()}
    for number, (files, at) in enumerate([(tars, ""), (tars, "/train-{0..2}.tar"), (folders, ""), (listed, "/l.csv")]):
        bucket.objects.delete()
        put(bucket, tmp_path / str(number) / "d", files)
        found, local = open_table(f"s3://pets/d{at}"), open_table(f"{tmp_path / str(number) / 'd'}{at}")
        assert (found.classes, found.splits) == (local.classes, local.splits)
        assert content_hashes(found) == content_hashes(local)
        assert [found.encoded(i) for i in range(len(found))] == [local.encoded(i) for i in range(len(local))]


def test_versions_are_recorded_and_credentials_are_not(bucket, tmp_path):
    put(bucket, tmp_path / "d", {"a.tar": tar(0, 4), "b.tar": tar(4, 4)})
    dataset = open_dataset("s3://pets/d/")
    before = dataset.table.elsewhere
    assert before is not None and set(before.versions) == {"a.tar", "b.tar"}
    assert "secret" not in f"{dataset.source} {before} {dataset.table}"
    bucket.put_object(Key="d/a.tar", Body=tar(8, 4))
    after = open_dataset("s3://pets/d/").table.elsewhere
    assert after is not None
    with pytest.raises(DataError, match=r"a\.tar"):
        after.check(before.versions)
    with pytest.raises(RemoteError):
        open_table("s3://pets/none/")
