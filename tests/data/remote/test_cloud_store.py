"""Object stores: their failures told apart, and S3 by the server of moto."""

import random
import socket
import ssl

import pytest

from loupe.data.remote import cloud_store
from loupe.data.remote.address import Address
from loupe.data.remote.failures import AttemptError, ChangedError, MissingError, RefusedError, RemoteError
from loupe.data.remote.objects import listed, read, read_range
from loupe.data.remote.retries import RetryPolicy
from loupe.data.remote.shard_cache import ShardCache
from loupe.errors import ConfigError
from remote_stores import FakeClock, s3_server


def named(name, **attributes):
    """Exception of a class of that name."""
    return type(name, (Exception,), attributes)("token=5ecretsign https://ann:5ecretsign@host/")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "x"), MissingError),
        (PermissionError("x"), RefusedError),
        (named("NoCredentialsError"), RemoteError),
        (named("ClientAuthenticationError"), RefusedError),
        (named("HttpError", code=403), RefusedError),
        (named("HttpError", code="404"), MissingError),
        (named("HttpError", code=400), RemoteError),
        (named("HttpError", code=503), AttemptError),
        (named("HttpResponseError", status_code=429), AttemptError),
        (named("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 403}}), RefusedError),
        (named("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 500}}), AttemptError),
        (named("ParamValidationError"), RemoteError),
        (named("FlexibleChecksumError"), AttemptError),
        (named("FSTimeoutError"), AttemptError),
        (TimeoutError(), AttemptError),
        (ConnectionResetError(104, "reset"), AttemptError),
        (socket.gaierror(socket.EAI_NONAME, "x"), RemoteError),
        (socket.gaierror(socket.EAI_AGAIN, "x"), AttemptError),
        (ssl.SSLCertVerificationError("x"), RemoteError),
        (ModuleNotFoundError("No module named 'gcsfs'"), ConfigError),
    ],
)
def test_failures_are_told_apart(error, expected):
    for given in (error, _caused(error)):
        found = cloud_store._failure(given, "s3://bucket/x", "s3")
        assert type(found) is expected
        assert "5ecretsign" not in str(found)


def _caused(error):
    try:
        try:
            raise error
        except Exception as cause:
            raise OSError("of another library") from cause
    except OSError as wrapped:
        return wrapped


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
DATA = random.Random(1).randbytes(17 << 20)
OBJECTS = {"d/a.tar": DATA, "d/e.tar": b"", "d/deep/x y#1?.tar": b"odd", "d/b.txt": b"b", "d2/c.tar": b"c"}
INSIDE = {key: data for key, data in OBJECTS.items() if key.startswith("d/")}


@pytest.fixture(scope="module")
def endpoint():
    pytest.importorskip("s3fs")
    with s3_server() as url:
        yield url


@pytest.fixture
def s3(endpoint, monkeypatch):
    import boto3

    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "HTTP_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    cloud_store._file_system.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for key, data in OBJECTS.items():
        client.put_object(Bucket="bucket", Key=key, Body=data)
    yield client
    cloud_store._file_system.cache_clear()


@pytest.fixture
def policy():
    clock = FakeClock()
    return RetryPolicy(connect_seconds=5, silence_seconds=10, clock=clock.time, sleep=clock.sleep)


@pytest.mark.slow
def test_objects_of_s3_are_listed_and_read(s3, policy, tmp_path):
    def keys(text):
        return [remote.url.removeprefix("s3://bucket/") for remote in listed(Address.of(text), policy)]

    assert keys("s3://bucket") == sorted(OBJECTS)
    assert keys("s3://bucket/d/") == keys("s3://bucket/d") == sorted(INSIDE)
    assert keys("s3://bucket/d/*.tar") == ["d/a.tar", "d/e.tar"]
    assert keys("s3://bucket/**/*.tar") == ["d/a.tar", "d/deep/x y#1?.tar", "d/e.tar", "d2/c.tar"]
    remotes = listed(Address.of("s3://bucket/d"), policy)
    assert {remote.url.removeprefix("s3://bucket/"): read(remote, policy) for remote in remotes} == INSIDE
    [large] = listed(Address.of("s3://bucket/d/a.tar"), policy)
    assert large.version and large.resumable and large.size == len(DATA)
    assert read_range(large, len(DATA) - 5, len(DATA), policy) == DATA[-5:]
    with ShardCache(tmp_path, 20 << 20, policy=policy) as cache:
        cache.read_ahead(remotes)
        for remote in remotes:
            with cache.local(remote) as path:
                assert path.read_bytes() == OBJECTS[remote.url.removeprefix("s3://bucket/")]


@pytest.mark.slow
def test_many_objects_are_listed_over_several_pages(s3, policy, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "40")
    for number in range(110):
        s3.put_object(Bucket="bucket", Key=f"many/{number:04}", Body=b"")
    assert s3.list_objects_v2(Bucket="bucket", Prefix="many/")["KeyCount"] == 40
    found = listed(Address.of("s3://bucket/many/"), policy)
    assert [remote.url for remote in found] == [f"s3://bucket/many/{number:04}" for number in range(110)]
    assert len(listed(Address.of("s3://bucket/many/{0050..0109}"), policy)) == 60
    with pytest.raises(MissingError):
        listed(Address.of("s3://bucket/many/{0100..0110}"), policy)


@pytest.mark.slow
def test_objects_of_s3_that_changed_or_are_gone(s3, policy):
    [remote] = listed(Address.of("s3://bucket/d/a.tar"), policy)
    s3.put_object(Bucket="bucket", Key="d/a.tar", Body=DATA[::-1])
    for use in (lambda: read(remote, policy), lambda: read_range(remote, 0, 5, policy)):
        with pytest.raises(ChangedError):
            use()
    s3.delete_object(Bucket="bucket", Key="d/a.tar")
    with pytest.raises(MissingError):
        read(remote, policy)
    for text in ("s3://bucket/none", "s3://bucket/none/*.tar", "s3://no-such-bucket/x", "s3://no-such-bucket/*"):
        with pytest.raises(MissingError):
            listed(Address.of(text), policy)


@pytest.mark.slow
def test_checksums_of_s3_are_used(s3, policy, monkeypatch):
    """An object whose bytes changed on the way: the checksum of the store, which is asked for after the last range."""
    s3.put_object(Bucket="bucket", Key="sum.bin", Body=DATA, ChecksumAlgorithm="SHA256")
    [remote] = listed(Address.of("s3://bucket/sum.bin"), policy)
    assert read(remote, policy) == DATA
    real = cloud_store.CloudStore._ranges

    def changed(self, *asked):
        for number, data in enumerate(real(self, *asked)):
            yield data if number else b"x" + data[1:]

    monkeypatch.setattr(cloud_store.CloudStore, "_ranges", changed)
    with pytest.raises(RemoteError, match="checksum"):
        read(remote, policy)


@pytest.mark.slow
def test_missing_credentials_and_a_server_that_is_gone(s3, policy, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    cloud_store._file_system.cache_clear()
    hurried = RetryPolicy(attempts=1, connect_seconds=2, silence_seconds=2)
    with pytest.raises(RemoteError):
        listed(Address.of("s3://bucket/d/a.tar"), hurried)
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    cloud_store._file_system.cache_clear()
    with pytest.raises(RemoteError, match="credentials"):
        listed(Address.of("s3://bucket/d/a.tar"), hurried)
