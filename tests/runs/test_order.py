"""Choice of the order of a training, and a run in windows of shards."""

from dataclasses import replace

import numpy as np
import pytest

from loupe.augment.shard_order import EpochOrder
from loupe.config.recipe import Recipe
from loupe.data.file_state import State
from loupe.data.pixels.prepare import Images
from loupe.data.pixels.store import EncodedStore, RawStore
from loupe.data.shards import LocalShard, Shards
from loupe.data.table import ImageTable, make_rows
from loupe.errors import ConfigError
from loupe.recipes import catalog
from loupe.runs.order import epoch_order, shuffle_window, skew_of, skew_of_shuffled, warn_of_skewed_windows


def images(tmp_path, *, cache_bytes: int | None, raw: bool = False) -> Images:
    """A hundred images in twenty shards of 1,000 bytes each."""
    files = tuple(LocalShard(tmp_path / f"{k}.tar", State(1000, 0, 0, k, 0)) for k in range(20))
    shard_N = np.repeat(np.arange(20, dtype=np.int32), 5)
    places = np.zeros(100, np.int64)
    shards = Shards(files, shard_N, places, places, np.ones((100, 32), np.uint8), cache_bytes)
    table = ImageTable(make_rows(n=100, path=[str(i) for i in range(100)], label=[0] * 100), ("a",), "x", shards=shards)
    store = RawStore(np.zeros((100, 1, 1, 3), np.uint8)) if raw else EncodedStore(None, 1)
    return Images(table, ("",) * 100, store, damaged=0)


def test_auto_is_a_full_shuffle_unless_shards_are_fetched_in_every_epoch(tmp_path):
    assert shuffle_window(images(tmp_path, cache_bytes=None), 80) == "all"
    assert shuffle_window(images(tmp_path, cache_bytes=20_000), 80) == "all"
    assert shuffle_window(images(tmp_path, cache_bytes=19_999, raw=True), 80) == "all"
    assert shuffle_window(images(tmp_path, cache_bytes=10_000), 80) == 13
    assert shuffle_window(images(tmp_path, cache_bytes=1), 80) == 1


def test_shards_that_are_slow_to_open_are_held_open(tmp_path, monkeypatch):
    found = images(tmp_path, cache_bytes=20_000)
    assert found.table.shards is not None
    slow = replace(found, table=replace(found.table, shards=replace(found.table.shards, slow_to_open=True)))
    assert shuffle_window(slow, 80) == "all"
    monkeypatch.setattr("loupe.data.shards.MOST_OPEN", 10)
    assert shuffle_window(found, 80) == "all"
    assert shuffle_window(slow, 80) == 13


def test_a_window_needs_shards(tmp_path):
    table = images(tmp_path, cache_bytes=None).table
    assert epoch_order(table, "all").window_images is None
    assert epoch_order(table, 7).window_images == 7
    assert len(epoch_order(table, 20).windows(0, 0, np.arange(100))) == 5
    with pytest.raises(ConfigError, match="shuffle_window"):
        epoch_order(replace(table, shards=None), 7)


def test_the_window_is_a_key_of_the_recipe_that_is_settled_once():
    recipe = catalog.recipe("digits")
    assert recipe.shuffle_window == "auto"
    assert Recipe.model_validate({**recipe.model_dump(), "shuffle_window": 5}).shuffle_window == 5
    for wrong in (0, -1, "some", 1.5):
        with pytest.raises(ValueError, match="shuffle_window"):
            Recipe.model_validate({**recipe.model_dump(), "shuffle_window": wrong})


def test_orders_of_one_window_and_of_all_are_equal(tmp_path):
    table, rows_N = images(tmp_path, cache_bytes=None).table, np.arange(0, 100, 3)
    np.testing.assert_array_equal(
        np.concatenate(epoch_order(table, 100).windows(1, 4, rows_N)),
        np.concatenate(EpochOrder().windows(1, 4, rows_N)),
    )


def test_windows_of_sorted_shards_are_told(tmp_path, caplog):
    table = images(tmp_path, cache_bytes=None).table
    labels = np.repeat(np.arange(4), 25)
    for label, said in ((labels, True), (np.arange(100) % 4, False)):
        rows = make_rows(n=100, path=[str(i) for i in range(100)], label=label)
        sorted_by = replace(table, rows=rows, classes=("a", "b", "c", "d"))
        caplog.clear()
        warn_of_skewed_windows(epoch_order(sorted_by, 20), sorted_by, np.arange(100), 0)
        assert ("sorted by class" in caplog.text) == said
    assert skew_of([np.array([0, 0]), np.array([1, 1])], 2) == 0.5
    assert skew_of([np.array([0, 1]), np.array([1, 0])], 2) == 0.0


def test_the_skew_of_shuffled_images_is_that_of_their_number():
    generator = np.random.default_rng(0)
    windows = np.array_split(generator.choice(10, 54_000), 500)
    assert skew_of(windows, 10) == pytest.approx(skew_of_shuffled(windows, 10), rel=0.05)
