"""Digests of content: what hashlib says, remembered while a file is as it was, and never a minute longer."""

import hashlib
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from loupe.data import hashing
from loupe.data.hashing import content_hashes
from loupe.data.sources.open import open_table
from loupe.data.table import ImageTable, make_rows

OLD_NS = time.time_ns() - 60 * 10**9


@pytest.fixture(autouse=True)
def _a_minute_later(monkeypatch):
    """Files are hashed a minute after they were made: their time of change is the system's, and cannot be set."""
    monkeypatch.setattr(hashing, "_SETTLED_NS", -60 * 10**9)


@pytest.fixture
def folder(tmp_path):
    """Two classes of files with some bytes; content is all that is asked of them. Last changed a minute ago."""
    root = tmp_path / "set"
    for k in range(150):
        file = root / ("cat", "dog")[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"image %d" % (k // 2))
        os.utime(file, ns=(OLD_NS, OLD_NS))
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """The rows whose bytes were asked for."""
    asked = []
    encoded = ImageTable.encoded
    monkeypatch.setattr(ImageTable, "encoded", lambda table, i: (asked.append(i), encoded(table, i))[1])
    return asked


def table_of(folder):
    return open_table(folder)


def expected(table):
    return tuple(hashlib.sha256(table.encoded(i)).hexdigest() for i in range(len(table)))


def test_digests_are_sha256_of_the_bytes_in_order(folder, cache):
    table = table_of(folder)
    assert content_hashes(table, cache=cache) == expected(table)


def test_images_that_the_table_holds(cache):
    table = open_table((np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8), [0, 1, 0, 1]))
    assert content_hashes(table, cache=cache) == expected(table)
    assert not cache.exists()


def test_a_second_run_reads_nothing(folder, cache, reads):
    table = table_of(folder)
    first = content_hashes(table, cache=cache)
    assert sorted(reads) == list(range(150))
    reads.clear()
    assert content_hashes(table_of(folder), cache=cache) == first
    assert content_hashes(table.select([3, 1]), cache=cache) == (first[3], first[1])
    assert not reads


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_is_read_again(folder, cache, reads, change):
    table = table_of(folder)
    first = content_hashes(table, cache=cache)
    file = table.file(7)
    file.write_bytes(b"another, longer" if change == "size" else b"IMAGE " + file.read_bytes()[6:])
    if change == "size":
        os.utime(file, ns=(OLD_NS, OLD_NS))
    reads.clear()
    second = content_hashes(table, cache=cache)
    assert reads == [7]
    assert [i for i in range(150) if first[i] != second[i]] == [7]
    assert second == expected(table)


def test_what_was_changed_just_now_is_not_remembered(folder, cache, reads, monkeypatch):
    monkeypatch.setattr(hashing, "_SETTLED_NS", 2 * 10**9)
    now = time.time_ns()
    monkeypatch.setattr(hashing.time, "time_ns", lambda: now + 3 * 10**9)
    table = table_of(folder)
    os.utime(table.file(5), ns=(now + 2 * 10**9,) * 2)
    content_hashes(table, cache=cache)
    reads.clear()
    content_hashes(table, cache=cache)
    assert reads == [5]


def test_what_got_an_old_time_just_now_is_not_remembered(folder, cache, reads, monkeypatch):
    """As `cp -p`, `touch -r` and archives give: the time of change tells of it."""
    monkeypatch.setattr(hashing, "_SETTLED_NS", 2 * 10**9)
    table = table_of(folder)
    content_hashes(table, cache=cache)
    reads.clear()
    content_hashes(table, cache=cache)
    assert len(reads) == 150


@pytest.mark.parametrize("how", ["renamed", "rewritten", "linked"])
def test_files_of_equal_size_and_time_that_changed_places_are_read_again(folder, cache, reads, how):
    table = table_of(folder)
    first = content_hashes(table, cache=cache)
    cat, dog = table.file(0), table.file(149)
    data = cat.read_bytes().ljust(9), dog.read_bytes().ljust(9)
    for file, content in zip((cat, dog), data, strict=True):
        file.write_bytes(content)
        os.utime(file, ns=(OLD_NS, OLD_NS))
    before = content_hashes(table, cache=cache)
    assert before[0] != first[0]
    reads.clear()
    if how == "rewritten":
        for file, content in zip((cat, dog), reversed(data), strict=True):
            file.write_bytes(content)
    else:
        cat.rename(other := cat.with_name("other"))
        dog.rename(cat)
        other.rename(dog) if how == "renamed" else os.link(other, dog)
    for file in (cat, dog):
        os.utime(file, ns=(OLD_NS, OLD_NS))
    after = content_hashes(table, cache=cache)
    assert sorted(reads) == [0, 149]
    assert (after[0], after[149]) == (before[149], before[0])


def test_verifying_reads_every_image_and_remembers_it_anew(folder, cache, reads):
    table = table_of(folder)
    first = content_hashes(table, cache=cache)
    [memory] = (cache / "content").iterdir()
    wrong = {path: known._replace(digest=bytes(32)) for path, known in hashing.recalled_hashes(memory).items()}
    hashing._remember(memory, wrong)
    assert set(content_hashes(table, cache=cache)) == {"00" * 32}
    reads.clear()
    assert content_hashes(table, cache=cache, verify=True) == first
    assert len(reads) == 150
    assert content_hashes(table, cache=cache) == first


def test_a_flipped_bit_in_remembered_digests_is_found(folder, cache):
    table = table_of(folder)
    first = content_hashes(table, cache=cache)
    [memory] = (cache / "content").iterdir()
    data = memory.read_bytes()
    for place in range(8, len(data) - 8, 97):
        memory.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert content_hashes(table, cache=cache) == first


def test_a_file_that_cannot_be_read_has_a_digest_of_its_own(folder, cache):
    table = table_of(folder)
    before = content_hashes(table, cache=cache)
    for i in (2, 9):
        table.file(i).unlink()
    digests = content_hashes(table, cache=cache)
    assert digests[2] != digests[9]
    assert {digests[2], digests[9]}.isdisjoint({*before, hashlib.sha256(b"").hexdigest()})
    assert [digests[i] for i in range(150) if i not in (2, 9)] == [before[i] for i in range(150) if i not in (2, 9)]


@pytest.mark.parametrize("damage", [b"", b"no Parquet file", None])
def test_a_damaged_memory_is_made_again(folder, cache, damage):
    table = table_of(folder)
    first = content_hashes(table, cache=cache)
    (memory,) = (cache / "content").glob("*.parquet")
    memory.write_bytes(memory.read_bytes()[:-500] if damage is None else damage)
    assert content_hashes(table, cache=cache) == first


def test_a_cache_that_cannot_be_written_is_announced_and_does_no_harm(folder, tmp_path, caplog):
    caplog.set_level("INFO", "loupe")
    (tmp_path / "file").write_text("no folder")
    table = table_of(folder)
    assert content_hashes(table, cache=tmp_path / "file") == expected(table)
    assert "cannot be cached" in caplog.text


def test_a_write_that_fails_leaves_the_memory_as_it_was(folder, cache, monkeypatch):
    table = table_of(folder)
    content_hashes(table.select(range(100)), cache=cache)
    (memory,) = (cache / "content").glob("*.parquet")
    before = memory.read_bytes()

    def fail(table, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(hashing.pq, "write_table", fail)
    assert content_hashes(table, cache=cache) == expected(table)
    assert memory.read_bytes() == before
    assert list((cache / "content").iterdir()) == [memory]


@pytest.mark.slow
def test_processes_at_once_agree(folder, cache):
    script = (
        "import sys; from pathlib import Path\n"
        "from loupe.data.sources.open import open_table\n"
        "from loupe.data.hashing import content_hashes\n"
        "t = open_table(Path(sys.argv[1]))\n"
        "print('\\n'.join(content_hashes(t, cache=Path(sys.argv[2]))))\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(cache)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert [tuple(output.split()) for output in outputs] == [expected(table_of(folder))]


def test_bytes_in_a_table_of_several_chunks_beside_files_and_missing_images(folder, cache, monkeypatch):
    monkeypatch.setattr(hashing, "_CHUNK_ROWS", 4)
    data = [b"", b"one", None, b"three", None, b"three", b"six" * 1000]
    paths = ["a", "b", "cat/0.png", None, None, "c", "d"]
    pieces = [make_rows(n=7, path=paths, label=None, data=data), make_rows(n=2, path=["dog/3.png", "no"], label=None)]
    table = ImageTable(pa.concat_tables([pieces[0].slice(0, 3), pieces[0].slice(3), *pieces[1:]]), (), "set", folder)
    digests = content_hashes(table, cache=cache)
    whole = [i for i in range(9) if i not in {4, 8}]
    assert [digests[i] for i in whole] == [hashlib.sha256(table.encoded(i)).hexdigest() for i in whole]
    assert len(set(digests)) == 8  # each unreadable one has its own
    assert content_hashes(table.select([6, 3, 2]), cache=cache) == tuple(digests[i] for i in (6, 3, 2))


def test_bytes_beyond_the_limit_are_unreadable(cache, monkeypatch):
    monkeypatch.setattr(hashing, "MAX_FILE_BYTES", 3)
    table = ImageTable(make_rows(n=2, path=["a", "b"], label=None, data=[b"abc", b"abcd"]), (), "set")
    first, second = content_hashes(table, cache=cache)
    assert first == hashlib.sha256(b"abc").hexdigest() and second != hashlib.sha256(b"abcd").hexdigest()
