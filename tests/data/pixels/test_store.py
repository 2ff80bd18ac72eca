"""Stores: the same pixels however they are kept, built once, and never half a build taken for a whole one."""

import io
import os
import sys
import time

import numpy as np
import pytest
from PIL import Image

from child_processes import start, was_killed
from loupe.cache import entries
from loupe.data import hashing, parallel
from loupe.data.hashing import content_hashes
from loupe.data.memory import default_budget
from loupe.data.pixels import decoding, pixel_cache, store
from loupe.data.pixels.decode import load
from loupe.data.pixels.decoding import EncodedImages
from loupe.data.pixels.store import DamagedImages, EncodedStore, RawStore, open_store
from loupe.data.sources.arrays import from_arrays
from loupe.data.sources.open import open_table
from loupe.data.table import ImageTable, make_rows
from loupe.errors import ImageError

SIDE = 24
COUNT = 60


def picture(seed):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((int(rng.integers(30, 90)), int(rng.integers(30, 90))))


@pytest.fixture
def folder(tmp_path):
    """Photographs of several formats and sizes, in two classes."""
    root = tmp_path / "set"
    for k in range(COUNT):
        file = root / ("cat", "dog")[k % 2] / f"{k:03}.{('jpg', 'png', 'webp')[k % 3]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(k).save(file)
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def in_files(monkeypatch):
    """Sets of any size are kept in files."""
    monkeypatch.setattr(store, "SMALL_BYTES", 0)


@pytest.fixture
def decodes(monkeypatch):
    """The paths of all images that are decoded."""
    seen = []
    monkeypatch.setattr(decoding, "load", lambda data, path, **how: (seen.append(path), load(data, path, **how))[1])
    return seen


def opened(table, cache, *, budget_bytes=2**30, resize="crop"):
    content = content_hashes(table, cache=cache)
    return open_store(
        EncodedImages(table, SIDE, resize, "bilinear"),
        content,
        budget_bytes=budget_bytes,
        cache=cache,
    )


def table_of(folder):
    return open_table(folder)


def expected(table, resize="crop"):
    how = {"load_px": SIDE, "resize": resize, "interpolation": "bilinear"}
    return np.stack([load(table.encoded(i), table.paths[i], **how) for i in range(len(table))])


def builds(cache):
    return sorted(path.parent.name for path in (cache / "pixels").glob("[!.]*/pixels.npy"))


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_every_store_gives_the_same_pixels(folder, cache, monkeypatch, resize):
    table = table_of(folder)
    stores = [opened(table, cache, resize=resize), opened(table, cache, budget_bytes=0, resize=resize)]
    monkeypatch.setattr(store, "SMALL_BYTES", 0)
    stores += [opened(table, cache, resize=resize), opened(table, cache, resize=resize)]
    assert [type(each) for each in stores] == [RawStore, EncodedStore, RawStore, RawStore]
    indices = np.array([5, 0, 59, 5, 17, 3])
    for each in stores:
        assert len(each) == COUNT
        read = each.read(indices)
        np.testing.assert_array_equal(read, expected(table, resize)[indices])
        assert read.dtype == np.uint8 and read.flags.c_contiguous
        assert each.read(np.array([], dtype=np.int64)).shape == (0, SIDE, SIDE, 3)


def test_there_is_no_image_beyond_the_last_nor_before_the_first(folder, cache):
    table = table_of(folder)
    for each in (opened(table, cache), opened(table, cache, budget_bytes=0)):
        for wrong in (-1, COUNT):
            with pytest.raises(IndexError):
                each.read(np.array([0, wrong]))


def test_small_sets_leave_no_file(folder, cache):
    opened(table_of(folder), cache)
    assert not (cache / "pixels").exists()


def test_the_second_opening_decodes_nothing(folder, cache, in_files, decodes):
    table = table_of(folder)
    opened(table, cache)
    assert len(decodes) == COUNT
    decodes.clear()
    again = opened(table_of(folder), cache)
    assert not decodes
    np.testing.assert_array_equal(again.pixels, expected(table))
    with pytest.raises(ValueError):
        again.pixels[0] = 0


def test_the_key_holds_all_that_decides_the_pixels(folder, cache, in_files, monkeypatch):
    table = table_of(folder)
    opened(table, cache)
    opened(table, cache, resize="pad")
    opened(table.select(np.arange(COUNT)[::-1]), cache)
    monkeypatch.setattr(decoding, "DECODER_VERSION", 10**6)
    opened(table, cache)
    picture(999).save(table.file(4))
    opened(table, cache)
    assert len(builds(cache)) == 5


def test_images_beyond_the_budget_are_announced(folder, cache, caplog):
    caplog.set_level("INFO", "loupe")
    table = table_of(folder)
    exactly = COUNT * SIDE * SIDE * 3
    assert isinstance(opened(table, cache, budget_bytes=exactly), RawStore)
    assert isinstance(opened(table, cache, budget_bytes=exactly - 1), EncodedStore)
    assert "above the budget" in caplog.text


def test_the_budget_is_less_than_the_memory():
    assert 2**20 < default_budget() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- damage -------------------------------------------------------------------------------------------------------


def damage(table, rows):
    for i in rows:
        table.file(i).write_bytes(table.encoded(i)[:100])


@pytest.mark.parametrize("files", [False, True])
def test_all_damaged_images_are_listed(folder, cache, monkeypatch, files):
    if files:
        monkeypatch.setattr(store, "SMALL_BYTES", 0)
    table = table_of(folder)
    damage(table, [3, 40])
    table.file(11).unlink()
    with pytest.raises(DamagedImages, match="--skip-damaged") as caught:
        opened(table, cache)
    assert caught.value.indices.tolist() == [3, 11, 40]
    assert [error.path for error in caught.value.errors] == [table.paths[i] for i in (3, 11, 40)]
    assert all(path in str(caught.value) for path in (table.paths[3], table.paths[40]))


def test_a_long_list_is_cut():
    error = DamagedImages([ImageError(f"{k}.jpg", "broken") for k in range(50)], list(range(50)))
    assert "19.jpg" in str(error) and "20.jpg" not in str(error) and "30 more" in str(error)


def test_leaving_the_damaged_out_decodes_nothing_twice(folder, cache, in_files, decodes):
    table = table_of(folder)
    damage(table, [3, 40])
    for expect_decodes in (COUNT, 0):
        decodes.clear()
        with pytest.raises(DamagedImages) as caught:
            opened(table, cache)
        rest = table.select(np.setdiff1d(np.arange(COUNT), caught.value.indices))
        kept = opened(rest, cache)
        assert len(decodes) == expect_decodes
        np.testing.assert_array_equal(kept.pixels, expected(rest))


def test_a_repaired_image_is_looked_at_again(folder, cache, in_files):
    table = table_of(folder)
    damage(table, [3])
    with pytest.raises(DamagedImages):
        opened(table, cache)
    picture(3).save(table.file(3), "PNG")
    np.testing.assert_array_equal(opened(table, cache).pixels, expected(table))


def test_a_missing_image_that_is_back_is_looked_at_again(folder, cache, in_files):
    table = table_of(folder)
    data, file = table.encoded(3), table.file(3)
    content = content_hashes(table, cache=cache)
    images, how = EncodedImages(table, SIDE, "crop", "bilinear"), {"budget_bytes": 2**30, "cache": cache}
    file.unlink()  # after its content was read: the key is that of the whole set
    with pytest.raises(DamagedImages):
        open_store(images, content, **how)
    file.write_bytes(data)
    assert len(open_store(images, content, **how)) == COUNT


def test_a_set_of_nothing_but_damage(folder, cache, in_files):
    table = table_of(folder)
    damage(table, range(COUNT))
    for _ in range(2):
        with pytest.raises(DamagedImages, match="60 damaged images"):
            opened(table, cache)
    assert builds(cache) == []


def test_an_encoded_store_names_an_image_that_is_damaged_after_it_was_opened(folder, cache):
    table = table_of(folder)
    encoded = opened(table, cache, budget_bytes=0)
    damage(table, [3])
    assert encoded.read(np.array([2, 4])).shape == (2, SIDE, SIDE, 3)
    with pytest.raises(ImageError) as caught:
        encoded.read(np.array([2, 3]))
    assert caught.value.path == table.paths[3]


# --- builds that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["short", "empty", "garbage", "shape", "zeros", "bit", "swapped", "record", "no record"]
)
def test_a_kept_file_that_is_not_whole_is_made_again(folder, cache, in_files, caplog, how):
    caplog.set_level("INFO", "loupe")
    table = table_of(folder)
    opened(table, cache)
    (file,) = (cache / "pixels").glob("*/pixels.npy")
    data = file.read_bytes()
    pixels, record = np.load(file), file.with_name("array.json")
    arrays = {
        "shape": np.zeros((COUNT, 3, 3, 3), dtype=np.uint8),
        "zeros": pixels * (np.arange(COUNT) < COUNT // 2)[:, None, None, None].astype(np.uint8),
        "bit": pixels ^ (np.arange(pixels.size).reshape(pixels.shape) == 70_001).astype(np.uint8),
        "swapped": pixels[[1, 0, *range(2, COUNT)]],
    }
    if how in arrays:
        np.save(file, arrays[how])
    elif how == "record":
        record.write_text(record.read_text().replace("2", "3"))
    elif how == "no record":
        record.unlink()
    else:
        file.write_bytes({"short": data[:-1], "empty": b"", "garbage": b"x" * 5000}[how])
    np.testing.assert_array_equal(opened(table, cache).pixels, expected(table))
    assert caplog.text.count("built again") == 1
    assert file.read_bytes() == data
    caplog.clear()
    opened(table, cache)
    assert "built again" not in caplog.text


def test_a_full_disk_is_announced_and_the_pixels_stay_in_memory(folder, cache, in_files, monkeypatch, caplog):
    caplog.set_level("INFO", "loupe")
    table = table_of(folder)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pixel_cache.os, "fsync", fail)
    kept = opened(table, cache)
    np.testing.assert_array_equal(kept.pixels, expected(table))
    assert "No space left on device" in caplog.text
    assert list((cache / "pixels").iterdir()) == []


def test_too_little_free_disk_is_seen_before_decoding(folder, cache, in_files, monkeypatch, caplog, decodes):
    caplog.set_level("INFO", "loupe")
    table = table_of(folder)
    monkeypatch.setattr(pixel_cache, "SPARE_DISK_BYTES", 2**60)
    assert len(opened(table, cache)) == COUNT
    assert "free" in caplog.text
    assert len(decodes) == COUNT


def test_a_cache_that_cannot_be_written(folder, tmp_path, in_files, caplog):
    caplog.set_level("INFO", "loupe")
    table = table_of(folder)
    (tmp_path / "file").write_text("no folder")
    np.testing.assert_array_equal(opened(table, tmp_path / "file").pixels, expected(table))
    assert "cannot be cached" in caplog.text


def test_images_beyond_the_budget_need_no_cache_that_can_be_written(folder, tmp_path, in_files):
    table = table_of(folder)
    (tmp_path / "file").write_text("no folder")
    store = opened(table, tmp_path / "file", budget_bytes=0)
    np.testing.assert_array_equal(store.read(np.arange(COUNT)), expected(table))


@pytest.mark.parametrize("budgets", [(0, 2**30), (2**30, 0)])
def test_what_one_budget_left_serves_another(folder, cache, in_files, decodes, budgets):
    """Half of the free memory is the budget: it differs from one run to the next."""
    table = table_of(folder)
    for budget in budgets:
        opened(table, cache, budget_bytes=budget)
    times = 2 if budgets[0] == 0 else 1  # that they are whole was seen without keeping them
    assert len(decodes) == times * COUNT
    decodes.clear()
    for budget in budgets:
        opened(table, cache, budget_bytes=budget)
    assert not decodes
    assert len(builds(cache)) == 1


@pytest.mark.parametrize("budget", [0, 2**30])
def test_pixels_that_are_used_again_count_as_used(folder, cache, in_files, budget, monkeypatch):
    monkeypatch.setattr(hashing, "_SETTLED_NS", -1)  # hashes of files that were made just now are remembered too
    for place in (folder, cache):
        for path in place.rglob("*"):
            os.utime(path, (time.time() - 40 * 86400,) * 2)
        opened(table_of(folder), cache, budget_bytes=budget)
    assert {entry.kind for entry in entries(cache) if time.time() - entry.used < 86400} == {"pixels", "content"}


def test_what_killed_builds_left_is_removed_after_a_day(folder, cache, in_files):
    for name, age_seconds in (("old", 3 * 86400), ("new", 60)):
        left = cache / "pixels" / f".building-{name}"
        left.mkdir(parents=True)
        (left / "pixels.npy").write_bytes(b"half")
        for path in (left / "pixels.npy", left):
            os.utime(path, (time.time() - age_seconds,) * 2)
    opened(table_of(folder), cache)
    assert [path.name for path in (cache / "pixels").glob(".building-*")] == [".building-new"]


BUILD = """
import sys
from pathlib import Path
from child_processes import hold_at_first_call, kill_at_call
from loupe.data.pixels import decoding, store
from loupe.data.hashing import content_hashes
from loupe.data.sources.open import open_table
store.SMALL_BYTES = 0
decoding.CHUNK_IMAGES = 1
if int(sys.argv[3]):
    kill_at_call([(decoding, "load")], int(sys.argv[3]))
else:
    hold_at_first_call(decoding, "load")
table = open_table(Path(sys.argv[1]))
content = content_hashes(table, cache=Path(sys.argv[2]))
images = decoding.EncodedImages(table, 24, "crop", "bilinear")
print(int(store.open_store(images, content, cache=Path(sys.argv[2]), budget_bytes=2**30).pixels.sum()))
"""


@pytest.mark.parametrize("image", [1, COUNT // 2, COUNT])
def test_a_killed_build_is_never_taken_for_a_whole_one(folder, cache, in_files, image):
    assert was_killed(start(BUILD, folder, cache, image))
    assert builds(cache) == []
    table = table_of(folder)
    np.testing.assert_array_equal(opened(table, cache).pixels, expected(table))


@pytest.mark.slow
def test_builds_at_once_all_succeed(folder, cache):
    children = [start(BUILD, folder, cache, 0) for _ in range(3)]
    assert [child.stdout.readline() for child in children] == ["held\n"] * 3, "each has begun to build"
    outputs = [child.communicate("go\n", timeout=60)[0] for child in children]
    assert outputs == [f"{expected(table_of(folder)).sum()}\n"] * 3
    assert len(builds(cache)) == 1
    assert list((cache / "pixels").glob(".building-*")) == []


# --- processes ----------------------------------------------------------------------------------------------------


def small_table(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return open_table((images, np.arange(count) % 2))


def test_many_small_images_are_decoded_by_processes_to_the_same_pixels(cache, monkeypatch, decodes):
    monkeypatch.setattr(parallel, "PROCESSES_PAY_IMAGES", 500)
    monkeypatch.setattr(parallel, "worker_count", lambda: 2)
    table = small_table(600)
    kept = opened(table, cache)
    assert not decodes  # not here
    np.testing.assert_array_equal(kept.pixels, expected(table))


def test_damage_is_found_by_processes_too(cache, monkeypatch):
    monkeypatch.setattr(parallel, "PROCESSES_PAY_IMAGES", 100)
    monkeypatch.setattr(parallel, "worker_count", lambda: 2)
    table = small_table(200)
    encoded = type(table).encoded
    monkeypatch.setattr(type(table), "encoded", lambda table, i: b"no image" if i in (7, 150) else encoded(table, i))
    with pytest.raises(DamagedImages, match="begins with b'no image'") as caught:
        opened(table, cache)
    assert caught.value.indices.tolist() == [7, 150]


@pytest.mark.parametrize("executable", ["/nonexistent/python", "false"])
def test_where_processes_do_not_start_the_work_is_done_here(cache, monkeypatch, executable):
    monkeypatch.setattr(parallel, "PROCESSES_PAY_IMAGES", 100)
    monkeypatch.setattr(parallel, "worker_count", lambda: 2)
    monkeypatch.setattr(sys, "executable", executable)
    table = small_table(200)
    np.testing.assert_array_equal(opened(table, cache).pixels, expected(table))


def test_ctrl_c_leaves_no_build_and_no_thread_behind(folder, cache, in_files, monkeypatch):
    calls = io.StringIO()

    def interrupted(data, path, **how):
        calls.write("x")
        if len(calls.getvalue()) == 10:
            raise KeyboardInterrupt
        return load(data, path, **how)

    monkeypatch.setattr(decoding, "load", interrupted)
    monkeypatch.setattr(decoding, "CHUNK_IMAGES", 1)
    with pytest.raises(KeyboardInterrupt):
        opened(table_of(folder), cache)
    assert list((cache / "pixels").iterdir()) == []
    assert len(calls.getvalue()) < COUNT


@pytest.mark.parametrize("cached", [True, False])
def test_damage_beyond_the_budget_is_found_before_training_and_remembered(tmp_path, monkeypatch, cached):
    made = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    whole = from_arrays(made, np.zeros(5, np.int64), name="some")
    data = [whole.encoded(i) for i in range(5)]
    data[2] = data[2][:40]
    rows = make_rows(n=5, data=data, path=[f"{i}.bmp" for i in range(5)], label=[0] * 5)
    table = ImageTable(rows, ("a",), "some")
    content = tuple(str(i) for i in range(5))
    how = {"budget_bytes": 10, "cache": tmp_path if cached else None}
    for _ in range(2):
        with pytest.raises(DamagedImages) as caught:
            open_store(EncodedImages(table, 8, "crop", "bilinear"), content, **how)
        assert caught.value.indices.tolist() == [2]
    kept = np.array([0, 1, 3, 4])
    if cached:  # what remains was seen to be whole: it is not decoded again
        monkeypatch.setattr(EncodedImages, "decode_all", None)
    remaining = EncodedImages(table.select(kept), 8, "crop", "bilinear")
    store = open_store(remaining, tuple(content[i] for i in kept), **how)
    assert isinstance(store, EncodedStore)
    assert np.array_equal(store.read(np.arange(4)), made[kept])
