"""Start of a search: which images stay together in its split, and how many of them judge."""

import time
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from loupe.data.sources.read_options import ReadOptions
from loupe.evaluate.search_results import Restrictions
from loupe.recipes import catalog
from loupe.search import opening, space
from loupe.search.opening import SearchOptions, _validated_by_few, opened


@pytest.fixture
def exposures() -> tuple[np.ndarray, np.ndarray]:
    """Forty scenes of two classes, each under three exposures."""
    noise_SHW = gaussian_filter(np.random.default_rng(0).normal(size=(40, 48, 48)), (0, 2, 2))
    noise_SHW /= noise_SHW.std(axis=(1, 2), keepdims=True)
    grey = np.stack([np.clip(128 + gain * 45 * scene, 0, 255) for scene in noise_SHW for gain in (0.7, 1, 1.3)])
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=3), np.repeat(np.arange(40) % 2, 3)


def found(data, tmp_path: Path, *settings: str):
    return opened(
        SearchOptions(
            data=data,
            read=ReadOptions.of(None, None, False),
            limit_seconds=60.0,
            began=time.perf_counter(),
            restrictions=Restrictions(),
            weights="none",
            settings=settings,
            device="cpu",
            output=tmp_path,
        )
    )


def test_a_search_keeps_copies_of_training_images_out_of_its_validation_images(exposures, tmp_path):
    start = found(exposures, tmp_path)
    assert start.base.split.group == "near"
    scene_N = np.arange(120) // 3
    assert not set(scene_N[start.split.train]) & set(scene_N[start.split.val])


def test_images_of_few_pixels_are_drawn_at_random(exposures, tmp_path):
    pixels_NHWC, label_N = exposures
    assert found((np.ascontiguousarray(pixels_NHWC[:, ::6, ::6]), label_N), tmp_path).base.split.group == "given"


def test_what_was_asked_for_is_done(exposures, tmp_path):
    start = found(exposures, tmp_path, "split.group=given")
    assert start.base.split.group == "given"
    scene_N = np.arange(120) // 3
    assert set(scene_N[start.split.train]) & set(scene_N[start.split.val])


@pytest.mark.parametrize(
    ("images", "seconds", "validation"),
    [(5_000, 120, 0.1), (10_000, 120, 0.1), (50_000, 120, 1000), (50_000, 300, 2500), (50_000, 600, 0.1)],
)
def test_a_short_time_has_fewer_validation_images(images, seconds, validation):
    base = catalog.recipe("features")
    assert _validated_by_few(base, seconds, images).split.validation == validation


@pytest.mark.parametrize(
    ("counts", "settings", "monitor"),
    [
        ((100, 100), (), "val_accuracy"),
        ((150, 40), (), "val_macro_f1"),
        ((150, 40), ("monitor=val_accuracy",), "val_accuracy"),
    ],
)
def test_macro_f1_chooses_on_unbalanced_classes_unless_another_measure_is_given(counts, settings, monitor, tmp_path):
    x_NHWC = np.random.default_rng(0).integers(0, 256, (sum(counts), 16, 16, 3), dtype=np.uint8)
    start = found((x_NHWC, np.repeat([0, 1], counts)), tmp_path, *settings)
    (family,) = space.families(None, 0.0, start.typical_px, len(start.split.train), start.base, flips=True)
    assert family.recipe.monitor == monitor


def test_a_share_of_validation_images_that_was_given_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(opening, "ENOUGH_VALIDATION_IMAGES", 20)
    monkeypatch.setattr(opening, "VALIDATION_IMAGES_A_MINUTE", 10)
    x_NHWC = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    data = (x_NHWC, np.arange(400) % 2)
    assert len(found(data, tmp_path).split.val) == 20
    assert len(found(data, tmp_path, "split.validation=0.1").split.val) == 40
