"""Cache of shards: budget, eviction, pins, damage, several threads and processes, and what killed ones leave."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loupe import cache as loupe_cache
from loupe.data.remote import shard_cache
from loupe.data.remote.address import Address
from loupe.data.remote.failures import ChangedError, MissingError
from loupe.data.remote.objects import listed
from loupe.data.remote.retries import RetryPolicy
from loupe.data.remote.shard_cache import ShardCache, budget_bytes, default_budget_bytes, shard_key
from loupe.data.remote.shard_folder import Claim, ShardFolder
from loupe.data.remote.store import RemoteObject
from loupe.errors import ConfigError, DiskError
from remote_stores import FakeClock, running

SIZE = 10_000
SHARDS = {f"/s/{number:02}.tar": random.Random(number).randbytes(SIZE) for number in range(12)}
SOURCE = Path(shard_cache.__file__).parents[3]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE", shard_cache.VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with running(SHARDS) as found:
        yield found


@pytest.fixture
def policy():
    clock = FakeClock()
    return RetryPolicy(connect_seconds=5, silence_seconds=5, clock=clock.time, sleep=clock.sleep)


@pytest.fixture
def remotes(server, policy):
    found = listed(Address.of(f"{server.url}/s/"), policy)
    server.asked.clear()
    return found


def content(remote: RemoteObject) -> bytes:
    return SHARDS["/s/" + remote.url.rpartition("/")[2]]


def present(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*") if path.is_file()}


def eventually(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_shard_is_fetched_once_and_stays(server, remotes, policy, tmp_path):
    for _ in range(2):
        with ShardCache(tmp_path, 10 * SIZE, policy=policy) as cache:
            for _ in range(2):
                with cache.local(remotes[0]) as path:
                    assert path.read_bytes() == content(remotes[0]) and path.suffix == ".tar"
    assert len(server.asked) == 1
    assert present(tmp_path) == {shard_key(remotes[0])}


def test_the_least_recently_used_shards_are_evicted_within_the_budget(server, remotes, policy, tmp_path):
    with ShardCache(tmp_path, 3 * SIZE + 5, policy=policy) as cache:
        for number in (0, 1, 2, 0, 3):
            with cache.local(remotes[number]) as path:
                assert path.read_bytes() == content(remotes[number])
            os.utime(path, ns=(time.time_ns(), time.time_ns()))
            time.sleep(0.002)
        assert present(tmp_path) == {shard_key(remotes[number]) for number in (0, 2, 3)}
    assert len(server.asked) == 4


def test_shards_in_use_are_not_evicted_and_one_that_does_not_fit_beside_them_is_refused(remotes, policy, tmp_path):
    with ShardCache(tmp_path, 2 * SIZE, policy=policy, wait_seconds=0.05) as cache:
        with cache.local(remotes[0]) as first, cache.local(remotes[1]) as second:
            with pytest.raises(ConfigError, match=shard_cache.VARIABLE), cache.local(remotes[2]):
                pass
            assert first.is_file() and second.is_file()
        with cache.local(remotes[2]) as third:
            assert third.read_bytes() == content(remotes[2])


def test_a_shard_that_is_released_meanwhile_makes_space(remotes, policy, tmp_path):
    with ShardCache(tmp_path, SIZE, policy=policy) as cache:
        inside, leave = threading.Event(), threading.Event()

        def hold():
            with cache.local(remotes[0]):
                inside.set()
                leave.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait(20)
        threading.Timer(0.05, leave.set).start()
        with cache.local(remotes[1]) as path:
            assert leave.is_set() and path.read_bytes() == content(remotes[1])
        thread.join()


def test_a_budget_below_one_shard_is_refused(remotes, policy, tmp_path):
    with (
        ShardCache(tmp_path, SIZE - 1, policy=policy) as cache,
        pytest.raises(ConfigError, match=shard_cache.VARIABLE),
        cache.local(remotes[0]),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50GB", 50 * 10**9), ("1.5 GiB", 3 * 2**29), ("512mib", 2**29), ("2e9", 2 * 10**9), ("7k", 7000), ("12", 12)],
)
def test_budgets_have_units(text, expected):
    assert budget_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-5GB", "0", "5 PB", "1e", "nan"])
def test_a_budget_that_is_no_size_is_refused(text, monkeypatch, tmp_path):
    with pytest.raises(ConfigError):
        budget_bytes(text)
    if text:
        monkeypatch.setenv(shard_cache.VARIABLE, text)
        with pytest.raises(ConfigError):
            ShardCache(tmp_path)


def test_the_default_budget_is_half_of_the_free_disk(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert default_budget_bytes(tmp_path / "new" / "folder") == 500
    (tmp_path / "shard").write_bytes(b"x" * 200)
    assert default_budget_bytes(tmp_path) == 600
    monkeypatch.setenv(shard_cache.VARIABLE, "5kB")
    assert default_budget_bytes(tmp_path) == 5000


def test_a_damaged_shard_is_fetched_again(server, remotes, policy, tmp_path):
    def use():
        with ShardCache(tmp_path, 10 * SIZE, policy=policy) as cache, cache.local(remotes[0]) as path:
            assert path.read_bytes() == content(remotes[0])

    use()
    path = tmp_path / shard_key(remotes[0])
    for damage in (b"x" * SIZE, b"short", b""):
        path.write_bytes(damage)
        use()
    digest = tmp_path / ".state" / "digests" / path.name
    for damaged in ("", "[]", '{"checksum": "sha256:00", "written": 0}'):
        digest.write_text(damaged)
        use()
    digest.unlink()
    use()
    assert len(server.asked) == 8


def test_a_shard_without_a_version_is_not_taken_from_an_earlier_process(server, policy, tmp_path, monkeypatch):
    server.tags = ""
    [remote] = listed(Address.of(f"{server.url}/s/00.tar"), policy)
    assert remote.version is None
    server.asked.clear()
    for began, asked in ((0.0, 1), (0.0, 1), (time.time() + 100, 2)):
        monkeypatch.setattr(shard_cache, "_BEGAN", began)
        with ShardCache(tmp_path, 10 * SIZE, policy=policy) as cache, cache.local(remote):
            assert len(server.asked) == asked


def test_other_bytes_under_the_same_version_are_noticed_when_a_shard_is_fetched_again(
    server, remotes, policy, tmp_path
):
    with ShardCache(tmp_path, SIZE, policy=policy) as cache:
        for number in (0, 1):
            with cache.local(remotes[number]):
                pass
        server.script.append("same tag")
        with pytest.raises(ChangedError), cache.local(remotes[0]):
            pass
        with cache.local(remotes[0]) as path:
            assert path.read_bytes() == content(remotes[0])


def test_a_failure_leaves_nothing(server, remotes, policy, tmp_path):
    server.script.extend(["truncate", "404"])
    with ShardCache(tmp_path, 10 * SIZE, policy=policy) as cache:
        with pytest.raises(MissingError), cache.local(remotes[0]):
            pass
        assert present(tmp_path) == set() and list((tmp_path / ".state" / "parts").iterdir()) == []
        with cache.local(remotes[0]) as path:
            assert path.read_bytes() == content(remotes[0])


def test_shards_are_read_ahead_in_order_and_within_the_budget(server, remotes, policy, tmp_path):
    others = set(threading.enumerate())  # of other tests in this process
    with ShardCache(tmp_path, 4 * SIZE, policy=policy, threads=1) as cache:  # of several, one may be late
        cache.read_ahead(remotes)
        eventually(lambda: len(present(tmp_path)) == 4)
        assert present(tmp_path) == {shard_key(remote) for remote in remotes[:4]}
        for remote in remotes:
            with cache.local(remote) as path:
                assert path.read_bytes() == content(remote)
            assert len(present(tmp_path)) <= 4
    assert len(server.asked) == len(remotes)  # none was evicted before its use
    left = [thread for thread in threading.enumerate() if thread.name == "loupe-shards" and thread not in others]
    assert left == []


def test_a_new_order_replaces_the_old_one(remotes, policy, tmp_path):
    with ShardCache(tmp_path, 2 * SIZE, policy=policy, threads=1) as cache:
        cache.read_ahead(remotes[:4])
        eventually(lambda: len(present(tmp_path)) == 2)
        cache.read_ahead(remotes[8:])
        eventually(lambda: present(tmp_path) == {shard_key(remote) for remote in remotes[8:10]})


def test_only_some_shards_wait_for_their_use(remotes, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "MOST_AHEAD", 3)
    with ShardCache(tmp_path, 100 * SIZE, policy=policy) as cache:
        cache.read_ahead(remotes)
        eventually(lambda: len(present(tmp_path)) == 3)
        time.sleep(0.05)
        assert len(present(tmp_path)) == 3
        with cache.local(remotes[0]):
            eventually(lambda: len(present(tmp_path)) == 4)


def test_a_shard_that_cannot_be_read_ahead_raises_its_error_where_it_is_used(server, remotes, policy, tmp_path):
    del server.files["/s/01.tar"]
    with ShardCache(tmp_path, 100 * SIZE, policy=policy) as cache:
        cache.read_ahead(remotes[:3])
        eventually(lambda: len(present(tmp_path)) == 2)
        for number in (0, 2):
            with cache.local(remotes[number]) as path:
                assert path.read_bytes() == content(remotes[number])
        with pytest.raises(MissingError), cache.local(remotes[1]):
            pass


def test_many_threads_fetch_each_shard_once_from_a_store_that_fails_often(server, remotes, policy, tmp_path):
    server.fault_rate = 0.1
    wrong = []

    def use(seed):
        for remote in random.Random(seed).sample(remotes, len(remotes)):
            with cache.local(remote) as path:
                if path.read_bytes() != content(remote):
                    wrong.append(remote)

    with ShardCache(tmp_path, 100 * SIZE, policy=policy) as cache:
        cache.read_ahead(remotes)
        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == [] and len(present(tmp_path)) == len(remotes)


def test_a_full_disk_evicts_shards_and_then_gives_one_error(remotes, policy, tmp_path, monkeypatch):
    full, fetched = [1], shard_cache.receive

    def receive(remote, file, *rest):
        if full and full.pop():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fetched(remote, file, *rest)

    with ShardCache(tmp_path, 100 * SIZE, policy=policy) as cache:
        full.clear()
        monkeypatch.setattr(shard_cache, "receive", receive)
        for number in (0, 1):
            with cache.local(remotes[number]):
                pass
        full.append(1)
        with cache.local(remotes[2]) as path:
            assert path.read_bytes() == content(remotes[2])
        assert present(tmp_path) == {shard_key(remotes[number]) for number in (1, 2)}
        full.extend([1] * 50)
        with pytest.raises(DiskError, match=shard_cache.VARIABLE), cache.local(remotes[3]):
            pass
        assert present(tmp_path) == set()


def test_a_disk_that_is_full_for_the_record_of_a_shard_gives_one_error(remotes, policy, tmp_path, monkeypatch):
    def publish(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ShardCache(tmp_path, 100 * SIZE, policy=policy) as cache:
        monkeypatch.setattr(ShardFolder, "publish", publish)
        with pytest.raises(DiskError), cache.local(remotes[0]):
            pass
        cache.read_ahead(remotes[1:2])
        eventually(lambda: shard_key(remotes[1]) in cache._failed)
        with pytest.raises(DiskError), cache.local(remotes[1]):
            pass
        monkeypatch.undo()
        assert cache._folder.used_bytes() == 0


def test_errors_of_the_user_of_a_shard_are_handed_on(remotes, policy, tmp_path):
    with ShardCache(tmp_path, SIZE, policy=policy) as cache:
        with pytest.raises(FileNotFoundError), cache.local(remotes[0]):
            raise FileNotFoundError("of the user")
        with cache.local(remotes[1]) as path:  # the pin is gone
            assert path.read_bytes() == content(remotes[1])


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError):
        ShardCache(tmp_path / "file", 1)


def test_signed_addresses_of_one_file_are_one_shard():
    signed = [
        RemoteObject(f"https://h/a.tar?id=1&X-Amz-Signature={value}&X-Amz-Date={value}", 5, '"t"') for value in "ab"
    ]
    other = RemoteObject("https://h/a.tar?id=2&X-Amz-Signature=a", 5, '"t"')
    assert len({shard_key(remote) for remote in signed}) == 1
    assert shard_key(other) != shard_key(signed[0])
    assert shard_key(RemoteObject("https://u:p@h/a.tar", 5, None)) == shard_key(
        RemoteObject("https://h/a.tar", 5, None)
    )
    assert (
        len({shard_key(RemoteObject("s3://b/a.tar", size, version)) for size in (1, 2) for version in ("x", "y")}) == 4
    )


def test_the_command_shows_and_clears_shards(remotes, policy, tmp_path):
    with ShardCache(tmp_path / "shards", 10 * SIZE, policy=policy) as cache, cache.local(remotes[0]):
        pass
    shown = {entry.path.name: entry for entry in loupe_cache.entries(tmp_path)}
    assert shown[shard_key(remotes[0])].kind == "shards" and shown[shard_key(remotes[0])].size == SIZE
    loupe_cache.remove(tmp_path, "shards", 0)
    assert present(tmp_path / "shards") == set()


def test_a_cache_that_was_cleared_meanwhile_goes_on(remotes, policy, tmp_path):
    import shutil

    with ShardCache(tmp_path / "shards", 10 * SIZE, policy=policy) as cache:
        with cache.local(remotes[0]):
            pass
        shutil.rmtree(tmp_path / "shards")
        with cache.local(remotes[0]) as path:
            assert path.read_bytes() == content(remotes[0])


def test_pins_of_a_living_process_hold_and_those_of_a_dead_one_do_not(tmp_path):
    """Two folders are two processes: each holds a lock of its own."""
    first, second = ShardFolder(tmp_path, 2), ShardFolder(tmp_path, 2)

    def write(owner, key, *, ahead):
        assert owner.claim(key, 1, ahead=ahead) is Claim.OURS
        owner.part(key).write_bytes(b"x")
        owner.publish(key, "sha256:", ahead=ahead)

    write(first, "a", ahead=False)
    write(first, "b", ahead=True)
    assert second.claim("c", 1, ahead=True) is Claim.NO_SPACE  # b waits for its use
    assert second.claim("c", 1, ahead=False) is Claim.OURS  # b gives way to one that is used now
    assert first.claim("c", 1, ahead=False) is Claim.FETCHING
    assert present(tmp_path) == {"a"} and second.used_bytes() == 2
    second._alive.release()  # as its end does
    assert first.claim("c", 1, ahead=False) is Claim.OURS
    first._alive.release()
    third = ShardFolder(tmp_path, 2)
    assert third.used_bytes() == 1
    assert third.claim("d", 2, ahead=False) is Claim.OURS
    assert present(tmp_path) == set()
    for folder in (first, second, third):
        folder.close()
    assert [path for path in (tmp_path / ".state").rglob("*") if path.is_file() and path.name != "index.lock"] == []


USER = """
import random, sys
from loupe.data.remote.objects import listed
from loupe.data.remote.address import Address
from loupe.data.remote.shard_cache import ShardCache
url, folder, budget, seed = sys.argv[1:]
remotes = listed(Address.of(url))
with ShardCache(__import__("pathlib").Path(folder), int(budget)) as cache:
    order = random.Random(int(seed)).sample(remotes, len(remotes)) * 3
    cache.read_ahead(order)
    for remote in order:
        with cache.local(remote) as path:
            data = path.read_bytes()
        print(remote.url.rpartition("/")[2], __import__("hashlib").sha256(data).hexdigest(), flush=True)
"""


def user(server, folder: Path, budget: int, seed: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", USER, f"{server.url}/s/", str(folder), str(budget), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_several_processes_share_a_folder_and_one_that_is_killed_leaves_nothing(server, tmp_path):
    from hashlib import sha256

    expected = {name.rpartition("/")[2]: sha256(data).hexdigest() for name, data in SHARDS.items()}
    whole = [user(server, tmp_path / "whole", 100 * SIZE, seed) for seed in range(3)]
    lines = [process.communicate(timeout=120)[0].split() for process in whole]
    assert [process.returncode for process in whole] == [0, 0, 0]
    for words in lines:
        assert len(words) == 2 * 3 * len(SHARDS)
        assert all(expected[name] == digest for name, digest in zip(words[::2], words[1::2], strict=True))
    downloads = [path for _, path, asked in server.asked if not asked and path.endswith(".tar")]
    assert len(downloads) == len(SHARDS)

    server.latency_seconds = 0.02
    small = [user(server, tmp_path / "small", 4 * SIZE, seed) for seed in range(3)]
    assert small[0].stdout.readline()
    small[0].send_signal(signal.SIGKILL)
    lines = [process.communicate(timeout=120)[0].split() for process in small[1:]]
    small[0].communicate(timeout=20)
    assert [process.returncode for process in small[1:]] == [0, 0]
    for words in lines:
        assert len(words) == 2 * 3 * len(SHARDS)
        assert all(expected[name] == digest for name, digest in zip(words[::2], words[1::2], strict=True))
    assert sum(path.stat().st_size for path in (tmp_path / "small").glob("*.tar")) <= 4 * SIZE
    assert list((tmp_path / "small" / ".state" / "parts").iterdir()) == []
    assert list((tmp_path / "small" / ".state" / "pins").iterdir()) == []
