"""Probe of mirrored images, on scikit-learn's digits, whose mirror images are other signs."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from loupe.data.dataset import open_dataset
from loupe.recipes.orientation import Orientation, orientation


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    return np.repeat((found.images[:300, ..., None] * 15.9).astype(np.uint8), 3, axis=3), found.target[:300]


def probed(x_NHWC, label_N):
    dataset = open_dataset((x_NHWC, label_N), announce=False)
    return orientation(dataset.table, dataset.hashes, np.arange(len(label_N)))


def test_digits_are_told_apart_by_their_orientation():
    dataset = open_dataset("digits", announce=False)
    found = orientation(dataset.table, dataset.hashes, np.arange(len(dataset.table)))
    assert found.tells_classes is True and found.images == 500
    assert found.accuracy > 0.9 and found.low <= found.difference <= found.high < -0.4


def test_classes_that_are_seen_from_both_sides_are_not(digits):
    x, y = digits
    assert probed(x, y).tells_classes is True
    is_turned = np.arange(len(y)) % 2 == 0  # half of each class, about
    assert probed(np.where(is_turned[:, None, None, None], x[:, :, ::-1], x), y).tells_classes is False


def test_labels_that_cannot_be_learned_tell_nothing(digits):
    x, y = digits
    found = probed(x, np.random.default_rng(0).permutation(y))
    assert found.tells_classes is None and not found.learned


def test_few_images_and_a_single_class_tell_nothing(digits):
    x, y = digits
    assert probed(x[:8], y[:8]) is None
    dataset = open_dataset((x, y), announce=False)
    assert orientation(dataset.table, dataset.hashes, np.flatnonzero(y == 3)) is None


@pytest.mark.parametrize(
    ("learned", "low", "high", "expected"),
    [(True, -0.5, -0.31, True), (True, -0.5, -0.29, None), (True, -0.29, 0.1, False), (False, -0.1, 0.1, None)],
)
def test_a_third_of_the_recognised_images_decides_with_the_whole_interval(learned, low, high, expected):
    assert Orientation(0.9, learned, (low + high) / 2, low, high, 100).tells_classes is expected
