"""`split.train`: a part of the training images to learn from; the other splits stay as they are."""

import numpy as np
import pytest

from loupe.config.recipe import SplitSpec
from loupe.data.sources.datasets import DATASETS
from loupe.data.sources.open import open_table
from loupe.data.splits.split import assign
from loupe.errors import DataError


@pytest.fixture(scope="module")
def digits():
    assert "digits" in DATASETS
    table = open_table("digits")
    return table, tuple(f"{row:05d}" for row in range(len(table)))


def test_a_part_is_drawn_by_class_and_the_other_splits_stay(digits):
    table, content = digits
    whole, part = (assign(table, content, SplitSpec(train=size), 0) for size in (None, 500))
    assert len(part.train) == 500 and set(part.train) <= set(whole.train)
    np.testing.assert_array_equal(part.val, whole.val)
    np.testing.assert_array_equal(part.test, whole.test)
    share_K = np.bincount(table.labels[whole.train]) / len(whole.train)
    np.testing.assert_allclose(np.bincount(table.labels[part.train]) / 500, share_K, atol=1 / 500)
    assert any("937 training images not used" in note for note in part.notes)


def test_a_fraction_is_one_of_the_training_images_that_are_left(digits):
    table, content = digits
    whole, half = (assign(table, content, SplitSpec(train=size), 0) for size in (None, 0.5))
    assert len(half.train) == -(-len(whole.train) // 2)


def test_more_than_there_are_is_all(digits):
    table, content = digits
    whole, more = (assign(table, content, SplitSpec(train=size), 0) for size in (None, 10_000))
    np.testing.assert_array_equal(more.train, whole.train)


def test_a_part_of_one_class_is_refused(digits):
    table, content = digits
    with pytest.raises(DataError, match=r"split\.train"):
        assign(table, content, SplitSpec(train=1), 0)
