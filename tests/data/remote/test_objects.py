"""Reading of remote files from a web server that misbehaves: the right bytes or one clear error."""

import base64
import datetime
import os
import pickle
import random
import socket
import ssl
import sys
from hashlib import md5, sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loupe.data.remote.address import Address
from loupe.data.remote.failures import ChangedError, MissingError, RemoteError
from loupe.data.remote.objects import commit_of, download, listed, read, read_range
from loupe.data.remote.retries import RetryPolicy
from loupe.data.remote.store import RemoteObject
from loupe.errors import ConfigError, DataError, DiskError
from remote_stores import COMMIT, FakeClock, running

DATA = random.Random(5).randbytes(600_000)
FILES = {"/d/b.tar": DATA, "/d/a.tar": b"a" * 100, "/d/note.txt": b"", "/d/deep/c.tar": b"c", "/d/a%20b.tar": b"x"}


@pytest.fixture(autouse=True)
def _network(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def policy(clock):
    return RetryPolicy(connect_seconds=5, silence_seconds=5, clock=clock.time, sleep=clock.sleep, jitter=lambda: 1.0)


@pytest.fixture
def server():
    with running(FILES) as found:
        yield found


@pytest.fixture
def remote(server, policy):
    [found] = listed(Address.of(f"{server.url}/d/b.tar"), policy)
    server.asked.clear()
    return found


def base64_digest(hasher):
    return base64.b64encode(hasher.digest()).decode()


def test_a_file_is_listed_with_its_size_and_version(server, policy):
    [found] = listed(Address.of(f"{server.url}/d/b.tar"), policy)
    assert (found.size, found.checksum, found.resumable) == (len(DATA), None, True)
    assert found.version.startswith('"')
    assert found.shown == f"{server.url}/d/b.tar" and found.url not in repr(found)
    assert read(found, policy) == DATA


def test_a_folder_a_pattern_and_a_range_are_listed_in_order(server, policy):
    def names(path):
        return [found.url.removeprefix(f"{server.url}/d/") for found in listed(Address.of(server.url + path), policy)]

    assert names("/d/") == ["a%2520b.tar", "a.tar", "b.tar", "note.txt"]
    assert names("/d/*.tar") == ["a%2520b.tar", "a.tar", "b.tar"]
    server.files |= {f"/d/{number:02}.tar": b"n" for number in range(12)}
    assert names("/d/{08..11}.tar") == ["08.tar", "09.tar", "10.tar", "11.tar"]
    with pytest.raises(MissingError):
        names("/d/{08..12}.tar")
    with pytest.raises(MissingError):
        names("/d/*.zip")
    with pytest.raises(RemoteError):
        names("/*/b.tar")
    assert [found.size for found in listed(Address.of(f"{server.url}/d/note.txt"), policy)] == [0]


@pytest.mark.parametrize(
    "fault",
    ["500", "503", "429", "reset", "truncate", "longer", "shorter", "compressed"],
)
def test_a_failure_is_repeated(server, remote, policy, clock, fault):
    server.script.append(fault)
    assert read(remote, policy) == DATA
    assert clock.pauses == [0.25]


def test_a_read_goes_on_where_it_broke_off(server, remote, policy):
    server.script.extend(["truncate", "truncate"])
    assert read(remote, policy) == DATA
    assert [asked for _, _, asked in server.asked] == ["", "bytes=300000-599999", "bytes=450000-599999"]


@pytest.mark.parametrize("tags", ["weak", ""])
def test_a_read_begins_again_where_no_strong_version_ties_two_parts_together(server, policy, tags):
    server.tags = tags
    [found] = listed(Address.of(f"{server.url}/d/b.tar"), policy)
    server.asked.clear()
    server.script.append("truncate")
    assert read(found, policy) == DATA
    assert [asked for _, _, asked in server.asked] == ["", ""]
    assert found.version is None if not tags else found.version.startswith("W/")


def test_a_server_that_ignores_ranges_gives_the_same_bytes(server, policy):
    server.ranges = False
    [found] = listed(Address.of(f"{server.url}/d/b.tar"), policy)
    assert found.size == len(DATA)
    server.script.append("truncate")
    assert read(found, policy) == DATA
    assert read_range(found, 100, 500_000, policy) == DATA[100:500_000]


def test_a_range_is_read_and_one_outside_is_refused(remote, policy):
    assert read_range(remote, 0, 0, policy) == b""
    assert read_range(remote, 599_990, 600_000, policy) == DATA[-10:]
    for start, stop in [(-1, 5), (5, 4), (0, 600_001)]:
        with pytest.raises(ValueError):
            read_range(remote, start, stop, policy)


def test_a_file_that_was_replaced_is_never_taken(server, remote, policy, clock):
    server.script.append("other tag")
    with pytest.raises(ChangedError):
        read(remote, policy)
    server.script.extend(["truncate", "other tag"])
    with pytest.raises(ChangedError):
        read(remote, policy)
    assert clock.pauses == [0.25]
    server.files["/d/b.tar"] = DATA[:1000]
    with pytest.raises(ChangedError):
        read_range(remote, 500, 900, policy)


@pytest.mark.parametrize(
    "headers",
    [
        lambda data: {"Content-MD5": base64_digest(md5(data))},
        lambda data: {"x-amz-checksum-sha256": base64_digest(sha256(data))},
        lambda data: {"x-goog-hash": f"crc32c=AAAAAA==,md5={base64_digest(md5(data))}"},
    ],
)
def test_other_bytes_with_the_same_tag_are_noticed_by_a_checksum_of_the_store(server, policy, headers):
    server.checksums = headers
    [found] = listed(Address.of(f"{server.url}/d/b.tar"), policy)
    server.script.append("same tag")
    assert read(found, policy) == DATA
    server.script.extend(["same tag"] * 3)
    with pytest.raises(RemoteError, match="checksum"):
        read(found, policy)


def test_a_store_that_goes_on_failing_gives_one_error_with_the_number_of_attempts(server, remote, policy, clock):
    server.script.extend(["503"] * 50)
    with pytest.raises(RemoteError) as error:
        read(remote, policy)
    assert error.value.attempts == policy.attempts == 8
    assert clock.pauses == [0.25, 0.5, 1, 2, 4, 8, 16]
    assert isinstance(error.value, DataError) and error.value.url == remote.shown
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(again), str(again), again.attempts) == (RemoteError, str(error.value), 8)


def test_attempts_that_bring_bytes_do_not_count_as_failed_until_the_time_is_over(server, remote, clock):
    server.script.extend(["truncate"] * 15)
    patient = RetryPolicy(attempts=2, clock=clock.time, sleep=clock.sleep, jitter=lambda: 1.0)
    assert read(remote, patient) == DATA
    server.script.clear()
    server.script.extend(["truncate"] * 15)
    hurried = RetryPolicy(
        attempts=20, total_seconds=1, slowest_bytes_per_second=1e9, clock=clock.time, sleep=clock.sleep
    )
    with pytest.raises(RemoteError, match="within"):
        read(remote, hurried)


WORDS = ("", "500", "429", "reset", "truncate", "longer", "shorter", "compressed", "same tag", "other tag")


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(st.sampled_from(WORDS), max_size=12),
    tags=st.sampled_from(["strong", "weak", ""]),
    ranges=st.booleans(),
    start=st.integers(0, 700),
    length=st.integers(0, 700),
)
def test_whatever_a_store_does_a_read_gives_the_right_bytes_or_an_error(server, script, tags, ranges, start, length):
    data = DATA[:1400]
    server.files["/d/short.tar"] = data
    server.tags, server.ranges = tags, ranges
    server.checksums = lambda sent: {"Content-MD5": base64_digest(md5(sent))}
    clock = FakeClock()
    policy = RetryPolicy(attempts=4, silence_seconds=5, clock=clock.time, sleep=clock.sleep)
    server.script.clear()
    [remote] = listed(Address.of(f"{server.url}/d/short.tar"), policy)
    unseen = "same tag" in script or (not tags and "other tag" in script)  # where only a checksum notices it
    for whole in (True, False):
        server.script.clear()
        server.script.extend(script)
        expected = data if whole else data[start : start + length]
        try:
            found = read(remote, policy) if whole else read_range(remote, start, start + length, policy)
        except RemoteError:
            assert any(script)
        else:
            assert found == expected or (unseen and not whole)
    server.script.clear()


def test_one_request_in_twenty_fails_and_every_file_is_right(server, policy):
    files = {f"/many/{number:03}.bin": bytes([number]) * (1000 + number) for number in range(60)}
    server.files |= files
    server.fault_rate = 0.05
    found = listed(Address.of(f"{server.url}/many/"), policy)
    assert [read(each, policy) for each in found] == list(files.values())


@pytest.mark.parametrize(("status", "error"), [("404", MissingError), ("410", MissingError), ("401", RemoteError),
                                               ("403", RemoteError), ("400", RemoteError)])  # fmt: skip
def test_a_refusal_is_not_repeated(server, remote, policy, clock, status, error):
    server.script.append(status)
    with pytest.raises(error):
        read(remote, policy)
    assert clock.pauses == []


def test_hosts_that_are_unknown_or_refuse_connections(policy, clock):
    with pytest.raises(RemoteError):
        listed(Address.of("http://no-such-host.invalid/x"), policy)
    assert clock.pauses == []
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(RemoteError) as error:
            listed(Address.of(f"http://127.0.0.1:{closed.getsockname()[1]}/x"), policy)
    assert error.value.attempts == 8


def test_encryption_that_is_none_and_a_server_that_stays_silent(server, policy, clock):
    quick = RetryPolicy(attempts=2, silence_seconds=0.15, clock=clock.time, sleep=clock.sleep)
    with pytest.raises(RemoteError):
        listed(Address.of(server.url.replace("http", "https") + "/d/b.tar"), quick)
    [found] = listed(Address.of(f"{server.url}/d/b.tar"), policy)
    server.script.extend(["silent", "stalls", ""])
    assert read(found, RetryPolicy(silence_seconds=0.15, clock=clock.time, sleep=clock.sleep)) == DATA


def test_a_certificate_that_nobody_signed_is_refused_at_once(policy, clock, tmp_path):
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + datetime.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "both.pem").write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with running(FILES) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with pytest.raises(RemoteError, match="certificate") as error:
            listed(Address.of(server.url.replace("http", "https") + "/d/b.tar"), policy)
    assert clock.pauses == [] and error.value.attempts == 0


def test_addresses_are_quoted_where_they_are_not(server, policy):
    server.files["/d/ä b.tar"] = b"quoted"
    for name in ("ä b.tar", "%C3%A4%20b.tar"):
        [found] = listed(Address.of(f"{server.url}/d/{name}"), policy)
        assert read(found, policy) == b"quoted"
    assert len(listed(Address.of(f"{server.url}/d/ä *.tar"), policy)) == 1


def test_a_trickle_ends_when_the_time_is_over(server, remote, policy):
    server.script.extend(["trickle"] * 9)
    hurried = RetryPolicy(total_seconds=0.05, slowest_bytes_per_second=1e9, silence_seconds=5)
    with pytest.raises(RemoteError):
        read(remote, hurried)


def test_credentials_of_an_address_are_sent_and_not_handed_to_another_host(server, policy):
    with running({"/x.bin": b"moved"}) as other:
        server.redirects["/moved"] = f"{other.url}/x.bin"
        address = Address.of(server.url.replace("://", "://ann:pa%20ss@") + "/moved")
        [found] = listed(address, policy)
        assert read(found, policy) == b"moved"
        assert {value for _, value in server.authorizations} == {"Basic YW5uOnBhIHNz"}
        assert {value for _, value in other.authorizations} == {""}


def test_a_download_leaves_the_file_or_nothing(server, remote, policy, tmp_path):
    target = tmp_path / "new" / "b.tar"
    seen = []
    server.script.append("truncate")
    download(remote, target, policy, seen.append)
    assert target.read_bytes() == DATA and seen[-1] == len(DATA) and seen == sorted(seen)
    server.script.append("404")
    with pytest.raises(MissingError):
        download(remote, tmp_path / "new" / "c.tar", policy)

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(remote, tmp_path / "new" / "c.tar", policy, stop)
    assert [path.name for path in target.parent.iterdir()] == ["b.tar"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError):
        download(remote, tmp_path / "file" / "b.tar", policy)


def test_offline_mode_forbids_all(server, remote, policy, monkeypatch):
    monkeypatch.setenv("LOUPE_OFFLINE", "1")
    for use in (lambda: read(remote, policy), lambda: listed(Address.of(f"{server.url}/d/"), policy),
                lambda: commit_of(Address.of("hf://datasets/ann/pets"), policy)):  # fmt: skip
        with pytest.raises(RemoteError, match="LOUPE_OFFLINE"):
            use()
    assert server.asked == []


@pytest.fixture
def hub(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    server.files |= {f"/ann/pets/train/{number}.parquet": DATA[number:] for number in range(3)}
    server.files |= {"/ann/pets/README.md": b"about", "/ann/pets/a b/#1.bin": b"odd"}
    return server


def test_a_data_set_of_a_hub_is_listed_at_its_commit(hub, policy):
    hub.page_size = 2
    address = Address.of("hf://datasets/ann/pets")
    assert commit_of(address, policy) == COMMIT
    found = listed(address, policy)
    prefix = f"hf://datasets/ann/pets@{COMMIT}/"
    assert [each.url.removeprefix(prefix) for each in found] == ["README.md", "a b/#1.bin", "train/0.parquet",
                                                                 "train/1.parquet", "train/2.parquet"]  # fmt: skip
    assert [read(each, policy) for each in found] == [b"about", b"odd", DATA, DATA[1:], DATA[2:]]
    assert found[2].version == found[2].checksum == f"sha256:{sha256(DATA).hexdigest()}"
    assert found[0].checksum.startswith("git-sha1:")


@pytest.mark.parametrize(
    ("path", "count"),
    [("@v1/train", 3), ("@refs/convert/parquet/train/", 3), ("/train/0.parquet", 1), ("/**/*.parquet", 3),
     ("/train/[02].parquet", 2), ("/train/{1..2}.parquet", 2), ("@main/a b/#1.bin", 1)],
)  # fmt: skip
def test_parts_of_a_data_set_of_a_hub(hub, policy, path, count):
    assert len(listed(Address.of(f"hf://datasets/ann/pets{path}"), policy)) == count


@pytest.mark.parametrize(
    "path", ["ann/none", "ann/pets@none", "ann/pets/none", "ann/pets/*.zip", "ann/pets/train/{1..3}.parquet"]
)
def test_what_a_hub_does_not_have(hub, policy, clock, path):
    with pytest.raises(RemoteError):
        listed(Address.of(f"hf://datasets/{path}"), policy)
    assert clock.pauses == []


def test_bytes_of_a_hub_are_checked_and_failures_repeated(hub, policy):
    [found] = listed(Address.of("hf://datasets/ann/pets/train/0.parquet"), policy)
    hub.script.extend(["503", "truncate", "same tag", "reset"])
    assert read(found, policy) == DATA
    hub.script.extend(["500", "", "503"])
    assert len(listed(Address.of("hf://datasets/ann/pets"), policy)) == 5


def test_the_token_of_a_hub_is_sent_and_never_shown(hub, policy, monkeypatch):
    hub.token = "hf_5ecret5ecret"
    with pytest.raises(RemoteError):
        listed(Address.of("hf://datasets/ann/pets"), policy)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert len(listed(Address.of("hf://datasets/ann/pets"), policy)) == 5


def test_a_file_system_without_its_package_is_refused_with_the_command_that_installs_it(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"loupe-vision\[cloud\]"):
        listed(Address.of("gs://bucket/x"), policy)


def test_azure_without_an_account_is_refused(policy, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(RemoteError, match="AZURE_STORAGE"):
        listed(Address.of("az://box/x"), policy)


def test_a_remote_file_is_a_value():
    assert RemoteObject("s3://b/x", 1, "v") == RemoteObject("s3://b/x", 1, "v")
    assert len({RemoteObject("s3://b/x", 1, "v"), RemoteObject("s3://b/x", 1, "w")}) == 2
