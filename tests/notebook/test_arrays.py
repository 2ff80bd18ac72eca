"""Images as arrays are those of the data, pixel by pixel, in the splits of a training."""

import numpy as np
import pytest
from PIL import Image

import loupe
from builders import save_photos
from loupe.config.recipe import SplitSpec
from loupe.data.dataset import open_dataset
from loupe.data.splits.split import assign


def labelled(counts: tuple[int, ...], side: tuple[int, int] = (6, 9)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(sum(counts))
    y = random.permutation(np.repeat([*"abcdefg"[: len(counts)]], counts))
    return random.integers(0, 256, (len(y), *side, 3), dtype=np.uint8), y


def test_arrays_are_the_images_in_their_order():
    given = labelled((5, 3, 4))
    x, y = loupe.arrays(given)
    assert x.dtype == np.uint8 and np.array_equal(x, given[0])
    assert y.tolist() == given[1].tolist()
    small, _ = loupe.arrays(given, size_px=(3, 4))
    assert small.shape == (12, 3, 4, 3)


def test_a_sample_has_turns_of_the_classes_and_is_that_of_the_seed():
    given = labelled((5, 30, 40))
    x, y = loupe.arrays(given, count=9, seed=3)
    assert [y.tolist().count(name) for name in "abc"] == [3, 3, 3]
    for image, name in zip(x, y, strict=True):
        [row] = np.flatnonzero((given[0] == image).all((1, 2, 3)))
        assert given[1][row] == name
    again, other = loupe.arrays(given, count=9, seed=3)[0], loupe.arrays(given, count=9, seed=4)[0]
    assert np.array_equal(x, again) and not np.array_equal(x, other)
    assert len(loupe.arrays(given, count=1000)[0]) == 75


def test_given_splits_are_kept_and_missing_ones_are_those_of_a_training():
    train, test = labelled((6, 6)), labelled((2, 2))
    assert np.array_equal(loupe.arrays((train, test), split="test")[0], test[0])
    assert np.array_equal(loupe.arrays((train, test), split="train")[0], train[0])
    with pytest.raises(loupe.DataError, match="splits test, train"):
        loupe.arrays((train, test), split="val")
    whole = labelled((40, 40))
    dataset = open_dataset(whole)
    drawn = assign(dataset.table, dataset.hashes, SplitSpec(), 5)
    for name in ("train", "val", "test"):
        x, y = loupe.arrays(whole, split=name, seed=5)
        assert np.array_equal(x, whole[0][drawn.rows(name)]) and y.tolist() == whole[1][drawn.rows(name)].tolist()


def test_images_of_other_sizes_need_a_size(tmp_path):
    folder = save_photos(tmp_path / "photos", ("cat", "dog"), 2, (20, 10))
    Image.new("RGB", (12, 12)).save(folder / "cat" / "square.png")
    with pytest.raises(loupe.DataError, match="size_px"):
        loupe.arrays(folder)
    x, y = loupe.arrays(folder, size_px=8)
    assert x.shape == (5, 8, 8, 3) and sorted(y.tolist()) == ["cat"] * 3 + ["dog"] * 2


@pytest.mark.parametrize(
    "wrong", [{"split": "tests"}, {"count": 0}, {"count": 1.5}, {"seed": -1}, {"size_px": 0}, {"size_px": "8"}]
)
def test_what_is_no_option_is_refused(wrong):
    with pytest.raises(loupe.ConfigError, match=next(iter(wrong))):
        loupe.arrays(labelled((2, 2)), **wrong)


def test_pixels_that_need_more_memory_than_there_is_are_refused(monkeypatch):
    monkeypatch.setattr("loupe.notebook.arrays.can_allocate", lambda size: size < 4 * 6 * 9 * 3)
    assert len(loupe.arrays(labelled((2, 1)))[0]) == 3
    with pytest.raises(loupe.NotEnoughMemoryError, match="4 images of 9 x 6 px"):
        loupe.arrays(labelled((2, 2)))
