"""Which images of an evaluation are worth showing: computed here image by image."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from loupe.config.recipe import Preprocessing
from loupe.evaluate.predictions import Predictions
from loupe.report import gallery_selection


def predictions(images: int, classes: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    label = random.integers(-1, classes, images)
    logits = random.normal(size=(images, classes)) * 2 + 2 * np.eye(classes)[label]
    names = tuple(str(i) for i in range(images))
    return Predictions(names, names, label, logits.astype(np.float32), tuple("abcdefgh"[:classes]))


def losses(found: Predictions) -> list[float]:
    odds = np.exp(found.logits_NK.astype(float))
    return [-np.log(odds[i, found.label[i]] / odds[i].sum()) for i in range(len(found))]


def alternating(ranked: list[int]) -> list[int]:
    """First, last, second, last but one, ..."""
    ranked, taken = list(ranked), []
    while ranked:
        taken.append(ranked.pop(0 if len(taken) % 2 == 0 else -1))
    return taken


@pytest.mark.parametrize(("images", "classes", "hardest"), [(400, 5, 20), (300, 3, 0), (60, 8, 200), (1, 2, 5)])
def test_the_hardest_come_first_and_then_every_cell_in_turn(images, classes, hardest, monkeypatch):
    monkeypatch.setattr(gallery_selection, "HARDEST", hardest)
    monkeypatch.setattr(gallery_selection, "HITS", 7)
    found = predictions(images, classes)
    loss, guess = losses(found), found.logits_NK.argmax(1)
    known = sorted((i for i in range(images) if found.label[i] >= 0), key=lambda i: -loss[i])
    misses = [i for i in known if guess[i] != found.label[i]]
    turns = dict.fromkeys(misses[:hardest], -1)
    for truth in range(classes):
        for other in range(classes):
            cell = [i for i in known if (found.label[i], guess[i]) == (truth, other)]
            order = alternating(cell)[:7] if truth == other else cell
            for turn, i in enumerate(order):
                turns.setdefault(i, turn)
    expected = sorted(turns, key=lambda i: (turns[i], -loss[i]))
    assert gallery_selection.by_interest(found).tolist() == expected


def test_the_true_class_is_always_among_those_with_their_probability():
    odds = np.array([0.4, 0.1, 0.3, 0.05, 0.15])
    assert gallery_selection.top_classes(odds, 2, "abcde") == [("a", 0.4), ("c", 0.3), ("e", 0.15)]
    assert gallery_selection.top_classes(odds, 3, "abcde") == [("a", 0.4), ("c", 0.3), ("e", 0.15), ("d", 0.05)]
    assert gallery_selection.top_classes(odds[:2], 1, "ab") == [("a", 0.4), ("b", 0.1)]


class Store:
    """Grey pixels of any image."""

    def read(self, rows):
        return np.zeros((len(rows), 8, 8, 3), np.uint8)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_is_said_of_a_picture_is_at_the_temperature_of_the_predictions(temperature):
    found = predictions(30, 4)
    table = SimpleNamespace(paths=list(found.path))
    images, sizes = SimpleNamespace(store=Store(), table=table), Preprocessing(size_px=8, load_px=8)
    shown = list(gallery_selection.confusion_cells(images, found.calibrated(temperature), "val", sizes))
    assert len(shown) > 20
    for exhibit in shown:
        i = int(exhibit.path)
        odds = np.exp(found.logits_NK[i].astype(float) / temperature)
        assert exhibit.probability == pytest.approx(odds.max() / odds.sum())
        assert exhibit.loss == pytest.approx(-np.log(odds[found.label[i]] / odds.sum()))
        assert exhibit.top[0] == (exhibit.predicted, exhibit.probability)


def test_samples_of_many_classes_are_of_those_that_the_seed_draws():
    classes = tuple(f"class {k:03}" for k in range(120))
    label = np.repeat(np.arange(120), 3)
    table = SimpleNamespace(paths=[str(i) for i in range(360)], labels=label, classes=classes)
    images, met = SimpleNamespace(store=Store(), table=table), Counter()
    for seed in range(60):
        augmenter = SimpleNamespace(seed=seed, preprocessing=Preprocessing(size_px=8, load_px=8))
        shown = [exhibit.label for exhibit in gallery_selection._samples(images, np.arange(360), augmenter)]
        assert len(shown) == len(set(shown)) == gallery_selection.SAMPLES
        assert shown == sorted(shown), "in the order of the classes"
        met.update(shown)
    low, high = binom.interval(1 - 1e-4 / 120, 60, gallery_selection.SAMPLES / 120)
    assert all(low <= met[name] <= high for name in classes)


def test_samples_of_few_classes_are_of_each_in_turn():
    label = np.repeat(np.arange(4), 30)
    table = SimpleNamespace(paths=[str(i) for i in range(120)], labels=label, classes=tuple("abcd"))
    augmenter = SimpleNamespace(seed=1, preprocessing=Preprocessing(size_px=8, load_px=8))
    images = SimpleNamespace(store=Store(), table=table)
    shown = [exhibit.label for exhibit in gallery_selection._samples(images, np.arange(120), augmenter)]
    assert shown == [*"abcd"] * 10


def test_of_equal_losses_the_seed_decides_what_is_shown_first():
    label = np.repeat(np.arange(40), 2)
    names = tuple(f"{i:064x}" for i in range(80))
    logits = (100 * np.eye(40)[label]).astype(np.float32)
    found = Predictions(names, names, label, logits, tuple(f"class {k:02}" for k in range(40)))
    first = [set(label[gallery_selection.by_interest(found, seed)[:10]].tolist()) for seed in range(20)]
    assert len({frozenset(classes) for classes in first}) == 20
    assert set().union(*first) == set(range(40))
