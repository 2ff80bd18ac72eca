"""Units of a split: images of one content, of one group, and of like looks."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from loupe.config.recipe import SplitSpec
from loupe.data.audit import near_duplicates
from loupe.data.audit.near_pairs import NearPairs, near_pairs
from loupe.data.audit.near_units import near_units
from loupe.data.hashing import content_hashes
from loupe.data.sources.arrays import from_arrays
from loupe.data.splits.folds import numbers
from loupe.data.splits.grouping import grouping
from loupe.data.splits.split import assign
from loupe.data.table import SCHEMA, ImageTable
from loupe.errors import DataError

SCENES, EXPOSURES = 20, 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def scenes() -> ImageTable:
    """20 scenes of 2 classes under 3 exposures each, the exposures of a scene one after the other."""
    rng = np.random.default_rng(0)
    noise_SHW = gaussian_filter(rng.normal(size=(SCENES, 48, 48)), (0, 2, 2))
    noise_SHW /= noise_SHW.std(axis=(1, 2), keepdims=True)
    grey = [np.clip(128 + gain * 45 * scene, 0, 255) for scene in noise_SHW for gain in (0.6, 1.0, 1.3)]
    x = np.repeat(np.stack(grey).astype(np.uint8)[..., None], 3, axis=3)
    return from_arrays(x, np.repeat(np.arange(SCENES) % 2, EXPOSURES), name="scenes")


def pairs_of(ends: list[tuple[int, int]]) -> NearPairs:
    return NearPairs(np.array(ends, np.int64).reshape(-1, 2), np.zeros(len(ends)))


def test_a_scene_is_on_one_side_of_every_split_and_fold(scenes):
    content = content_hashes(scenes)
    scene_N = np.repeat(np.arange(SCENES), EXPOSURES)
    divided = 0
    for seed in range(5):
        split = assign(scenes, content, SplitSpec(group="near"), seed)
        sides = [set(scene_N[rows].tolist()) for rows in (split.train, split.val, split.test)]
        assert all(sides) and not any(one & other for one, other in itertools.combinations(sides, 2))
        fold_N = numbers(scenes, content, np.arange(len(scenes)), folds=5, seed=seed, group="near")
        assert all(len(set(fold_N[scene_N == scene].tolist())) == 1 for scene in range(SCENES))
        plain = assign(scenes, content, SplitSpec(), seed)
        divided += len(set(scene_N[plain.train]) & set(scene_N[plain.test]))
    assert divided > 0
    assert "60 near-duplicate pairs of 60 images: 60 pairs are kept" in split.notes[0]


def test_the_search_is_done_once_for_the_same_contents(scenes, monkeypatch, cache):
    content = content_hashes(scenes)
    before = near_pairs(scenes, content)
    monkeypatch.setattr(near_duplicates, "near_ends", None)
    order_N = np.random.default_rng(1).permutation(len(scenes))
    again = near_pairs(scenes.select(order_N), [content[i] for i in order_N])
    rows = [np.sort(ends_P2, axis=1).tolist() for ends_P2 in (before.ends_P2, order_N[again.ends_P2])]
    assert rows[0] == rows[1]
    [file] = (cache / "near").glob("*.json")
    file.write_text(file.read_text().replace("0.0", "0.1", 1))
    with pytest.raises(TypeError, match="not callable"):  # damaged: searched again
        near_pairs(scenes, content)


def test_groups_of_the_data_and_likeness_are_joined_or_left(scenes):
    content = content_hashes(scenes)
    column = scenes.rows.schema.get_field_index("group")
    groups = ["pair"] * 3 + [None] * 6 + ["pair"] * 3 + [None] * (len(scenes) - 12)  # scenes 0 and 3
    rows = scenes.rows.set_column(column, SCHEMA.field("group"), pa.array(groups, pa.string()))
    table = ImageTable(rows, scenes.classes, "scenes")
    counts = {group: len(set(grouping(table, content, group).unit_N.tolist())) for group in ("none", "given", "near")}
    assert counts == {"none": 60, "given": 55, "near": 19}
    unit_N = grouping(table, content, "near").unit_N
    assert unit_N[0] == unit_N[2] == unit_N[9] == unit_N[11] != unit_N[3]
    notes = assign(table, content, SplitSpec(group="none", test=0.4), 0).notes
    assert any("1 group of the data divided between splits" in note for note in notes)


def test_images_like_those_of_a_given_split_are_not_drawn(scenes):
    splits = ["test" if row % EXPOSURES == 0 else "train" for row in range(len(scenes))]
    rows = scenes.rows.set_column(2, SCHEMA.field("split"), pa.array(splits, pa.string()))
    table = ImageTable(rows, scenes.classes, "scenes")
    with pytest.raises(DataError, match=r"40 of 40 training images look like images of a given split.*group=given"):
        assign(table, content_hashes(table), SplitSpec(group="near"), 0)


def test_units_within_the_bounds_are_connected_components():
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 1000, (150, 2))
    found = near_units(np.arange(1000), rng.integers(0, 2, 1000), pairs_of([*map(tuple, ends.tolist())]))
    count, wanted_N = connected_components(coo_array((np.ones(150), ends.T), shape=(1000, 1000)), directed=False)
    assert np.bincount(wanted_N).max() < 40
    assert len(set(zip(wanted_N.tolist(), found.unit_N.tolist(), strict=True))) == count == found.unit_N.max() + 1
    assert (found.joined, found.apart) == (150, 0)


@pytest.mark.parametrize(
    ("ends", "largest", "apart"),
    [
        ([(k, k + 1) for k in range(99)], 20, 4),  # a chain of 100 of the 200 images: at most 10 % each
        ([*itertools.combinations(range(60), 2)], 60, 0),  # one object under 60 views
        ([*itertools.combinations(range(120), 2)], 100, 20 * 100),
    ],
)
def test_a_chain_of_likeness_does_not_swallow_a_class(ends, largest, apart):
    label_N = np.repeat([0, 1], 200)
    found = near_units(np.arange(400), label_N, pairs_of(ends))
    assert np.bincount(found.unit_N).max() == largest
    assert (found.joined, found.apart) == (len(ends) - apart, apart)


def test_units_of_the_data_stay_together_beyond_the_bounds():
    unit_N = np.append(np.zeros(90, np.int64), np.arange(1, 111))
    found = near_units(unit_N, np.zeros(200, np.int64), pairs_of([(0, 1), (5, 100), (100, 101)]))
    assert len(set(found.unit_N[:90].tolist())) == 1
    assert found.unit_N[100] != found.unit_N[5] and found.unit_N[100] == found.unit_N[101]
    assert (found.joined, found.apart) == (2, 1)


def test_images_without_a_label_have_no_bound():
    found = near_units(np.arange(50), np.full(50, -1), pairs_of([(k, k + 1) for k in range(49)]))
    assert set(found.unit_N.tolist()) == {0}
