"""Hashing and decoding by several ranks: the files and the errors of one process, each made once."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rank_processes
from loupe import ranks
from loupe.config.recipe import Preprocessing
from loupe.data import hashing
from loupe.data.dataset import Dataset
from loupe.data.hashing import content_hashes
from loupe.data.pixels import decoding, pixel_cache, prepare, store
from loupe.data.pixels.prepare import load_images, pixel_statistics, used_levels
from loupe.data.pixels.store import DamagedImages, EncodedStore
from loupe.data.sources.open import open_table

COUNT, DAMAGED = 41, (3, 4, 24, 40)
SETTINGS = Preprocessing(size_px=24, load_px=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs in two classes, changed a minute ago."""
    root, then = tmp_path_factory.mktemp("set"), time.time_ns() - 60 * 10**9
    for k in range(COUNT):
        pixels = np.random.default_rng(k).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = root / ("cat", "dog")[k % 2] / f"{k:03}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((30 + k, 40)).save(file)
        os.utime(file, ns=(then, then))
    return root


def in_small_steps():
    """Files of few images are cached, chunks are small, and digests of files that were just made are remembered."""
    store.SMALL_BYTES, decoding.CHUNK_IMAGES, hashing._SETTLED_NS = 0, 4, -60 * 10**9


def summary(folder, cache, *, damaged=False, budget=2**40):
    """Everything that is prepared of the images of a folder, and how often files were made."""
    in_small_steps()
    made = {"memory": 0, "pixels": 0, "read": 0, "decoded": 0}

    def counting(owner, name, key):
        original = getattr(owner, name)

        def call(*given, **named):
            made[key] += 1
            return original(*given, **named)

        setattr(owner, name, call)

    before = hashing._remember, pixel_cache._publish, decoding.load, prepare.default_budget
    counting(hashing, "_remember", "memory")
    counting(pixel_cache, "_publish", "pixels")
    counting(decoding, "load", "decoded")
    prepare.default_budget = lambda: budget + ranks.current().rank  # a reading, which is another on each rank
    os.environ["LOUPE_CACHE"] = str(cache)
    table = open_table(Path(folder))
    try:
        dataset = Dataset(None, table)
        content = dataset.hashes
        if damaged:
            intact = type(table).encoded
            spoilt = {table.paths[i] for i in DAMAGED}
            type(table).encoded = lambda self, i: b"no image" if self.paths[i] in spoilt else intact(self, i)
        try:
            errors = None
            loaded = load_images(dataset, SETTINGS, cache=Path(cache))
        except DamagedImages as error:
            errors = [error.indices.tolist(), str(error)]
            loaded = load_images(dataset, SETTINGS, cache=Path(cache), skip_damaged=True)
        rows_N = np.arange(len(loaded.table))
        return {
            "content": content,
            "errors": errors,
            "encoded": isinstance(loaded.store, EncodedStore),
            "pixels": hashlib.sha256(loaded.store.read(rows_N).tobytes()).hexdigest(),
            "statistics": pixel_statistics(loaded.store, rows_N, by_channel=True),
            "levels": used_levels(loaded.table, rows_N),
            "made": made,
        }
    finally:
        hashing._remember, pixel_cache._publish, decoding.load, prepare.default_budget = before
        if damaged:
            type(table).encoded = intact


def prepared(joined, *given):
    """Called in each rank by the tests below."""
    return summary(*given[:2], damaged=given[2], budget=given[3])


def files_of(cache):
    """Digests of the pixel files and their records, and the remembered hashes."""
    found = {
        file.relative_to(cache).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (cache / "pixels").rglob("*")
        if file.is_file()
    }
    [memory] = (cache / "content").iterdir()
    return found, hashing.recalled_hashes(memory)


def plain(found):
    """The same values as JSON has them, without the counts."""
    return {key: [*map(list, value)] if key == "statistics" else value for key, value in found.items() if key != "made"}


@pytest.mark.slow
@pytest.mark.parametrize(("damaged", "budget"), [(False, 2**40), (True, 2**40), (True, 0)])
def test_ranks_prepare_together_what_one_process_prepares(folder, tmp_path, monkeypatch, damaged, budget):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    for module, name in ((store, "SMALL_BYTES"), (decoding, "CHUNK_IMAGES"), (hashing, "_SETTLED_NS")):
        monkeypatch.setattr(module, name, getattr(module, name))
    alone = summary(folder, tmp_path / "1", damaged=damaged, budget=budget)
    whole = files_of(tmp_path / "1")
    assert (alone["errors"] or [None])[0] == ([*DAMAGED] if damaged else None)
    assert alone["encoded"] == (budget == 0)
    for count in (2, 3):
        cache = tmp_path / str(count)
        given = str(folder), str(cache), damaged, budget
        found = rank_processes.results(count, "test_shared_preparation:prepared", *given)
        for each in found:
            expected = {**plain(alone), "content": [*alone["content"]], "levels": [*alone["levels"]]}
            assert plain(each) == expected
        assert files_of(cache) == whole
        made = {key: [each["made"][key] for each in found] for key in alone["made"]}
        for key in ("memory", "pixels"):
            assert made[key] == [alone["made"][key]] + [0] * (count - 1), "rank 0 alone makes files"
        if not damaged:
            assert sum(made["decoded"]) == COUNT and min(made["decoded"]) > 0


def hashed_elsewhere(joined, folders, cache):
    """Called in each rank: the ranks of a machine read its own copy."""
    machine = joined.rank // 2
    reads, encoded = [], type(table := open_table(Path(folders[machine]))).encoded
    type(table).encoded = lambda self, i: (reads.append(i), encoded(self, i))[1]
    return [content_hashes(table, cache=Path(cache) / str(machine)), len(reads)]


@pytest.mark.slow
def test_each_machine_hashes_its_own_copy(folder, tmp_path):
    other = tmp_path / "other"
    for file in folder.rglob("*.png"):
        (other / file.parent.name).mkdir(parents=True, exist_ok=True)
        (other / file.parent.name / file.name).write_bytes(file.read_bytes() + (b"x" if "007" in file.name else b""))
    copies = [[str(folder), str(other)], str(tmp_path / "cache")]
    found = rank_processes.results(4, "test_shared_preparation:hashed_elsewhere", *copies, machines=2)
    own = [[*content_hashes(open_table(copy), cache=tmp_path / "own")] for copy in (folder, other)]
    assert own[0] != own[1]
    assert [digests for digests, _ in found] == [own[0], own[0], own[1], own[1]]
    assert [reads for _, reads in found] == [21, 20, 21, 20]
