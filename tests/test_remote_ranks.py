"""Ranks that open data elsewhere: each shard is indexed by one of them, and all have the same table and order."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

import rank_processes
from builders import picture
from loupe.data.hashing import content_hashes
from loupe.data.sources.open import open_table
from loupe.runs.order import epoch_order
from remote_stores import running

pytestmark = pytest.mark.slow


def opened(joined, url):
    """Called in each rank: what it found, and the order of an epoch in windows."""
    table = open_table(url)
    order_N = np.concatenate(epoch_order(table, 8).windows(3, 1, np.arange(len(table))))
    images = hashlib.sha256(b"".join(table.encoded(i) for i in range(len(table)))).hexdigest()
    return [list(table.paths), table.labels.tolist(), list(content_hashes(table)), images, order_N.tolist()]


def tar(first: int, count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(first, first + count):
            for name, data in ((f"{i:03}.png", picture(i)), (f"{i:03}.cls", b"ab"[i % 2 : i % 2 + 1])):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_ranks_share_out_the_shards_and_agree(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOUPE_SHARD_CACHE", "100MB")
    with running({f"/d/p-{k}.tar": tar(5 * k, 5) for k in range(5)}) as server:
        found = []
        for count in (1, 2):
            monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / f"cache-{count}"))
            server.asked.clear()
            found += rank_processes.results(count, "test_remote_ranks:opened", f"{server.url}/d/")
            assert len([path for _, path, _ in server.asked if path.endswith("p-3.tar")]) <= 3
    assert found[0] == found[1] == found[2]
    assert len(set(found[0][2])) == 25


def fails(joined, url):
    """Called in each rank: the error of a damaged shard."""
    try:
        open_table(url)
    except ValueError as error:
        return str(error)
    return None


def test_a_damaged_shard_is_an_error_on_every_rank(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOUPE_SHARD_CACHE", "100MB")
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    with running({"/d/a.tar": tar(0, 4), "/d/b.tar": tar(4, 4)[:3000]}) as server:
        first, second = rank_processes.results(2, "test_remote_ranks:fails", f"{server.url}/d/")
    assert first == second
    assert "b.tar: damaged or truncated" in first
