"""Note on drawn images that look like training images: given for copies, and never where labels speak against it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from loupe.config.recipe import Preprocessing, SplitSpec
from loupe.data.dataset import open_dataset
from loupe.data.pixels.prepare import Images, load_images
from loupe.data.splits.split import assign
from loupe.runs.near_note import _reduced, near_note


def images_of(scenes: int, exposures: int, label_S: np.ndarray, px: int = 48) -> Images:
    noise_SHW = gaussian_filter(np.random.default_rng(0).normal(size=(scenes, px, px)), (0, 2, 2))
    noise_SHW /= noise_SHW.std(axis=(1, 2), keepdims=True)
    gains = np.linspace(0.7, 1.3, exposures)
    grey = [np.clip(128 + gain * 45 * scene, 0, 255) for scene in noise_SHW for gain in gains]
    x = np.repeat(np.stack(grey).astype(np.uint8)[..., None], 3, axis=3)
    dataset = open_dataset((x, label_S))
    return load_images(dataset, Preprocessing(size_px=px, load_px=px, pixel_definition=2), cache=None)


def note_of(images: Images, spec: SplitSpec | None = None) -> str | None:
    spec = spec or SplitSpec()
    return near_note(images, assign(images.table, images.content, spec, 0), spec)


def test_copies_on_both_sides_are_counted():
    images = images_of(40, 3, np.repeat(np.arange(40) % 2, 3))
    note = note_of(images)
    assert note is not None and "24 of 24 images drawn" in note and "--set split.group=near" in note
    assert note_of(images, SplitSpec(group="none")) is None


@pytest.mark.parametrize(
    ("scenes", "exposures", "label_S"),
    [(120, 1, np.arange(120) % 2), (40, 3, np.arange(120) % 2)],  # nothing alike; likeness across the classes
)
def test_images_that_are_no_copies_have_no_note(scenes, exposures, label_S):
    assert note_of(images_of(scenes, exposures, label_S)) is None


def test_given_splits_are_not_looked_at():
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    y = np.arange(60) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    images = load_images(open_dataset(arrays), Preprocessing(size_px=8, load_px=8, pixel_definition=2), cache=None)
    assert note_of(images, SplitSpec(validation=0)) is None


@pytest.mark.parametrize("side", [8, 32, 96, 224])
def test_reduced_images_have_the_means_of_their_regions(side):
    ramp = np.linspace(0, 255, side)
    pixels = np.broadcast_to(ramp[None, None, :, None], (2, side, side, 1)).astype(np.uint8)
    small = _reduced(pixels)
    assert small.shape == (2, 32, 32, 3)
    wanted = np.interp((np.arange(32) + 0.5) * side / 32 - 0.5, np.arange(side), ramp)
    assert np.abs(small[0, 5, :, 0] - wanted).max() <= 255 / min(side, 32) / 2 + 2
