"""Folds: each image is validated on once, none of the test images ever, copies and groups never on both sides."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import loupe
from loupe.config.recipe import SplitSpec
from loupe.data.splits.folds import fold
from loupe.data.splits.split import assign
from loupe.data.splits.split_file import read
from loupe.data.table import ImageTable, make_rows
from loupe.runs import train as runner

pytestmark = pytest.mark.usefixtures("bare")


def table(labels, groups=None) -> tuple[ImageTable, list[str]]:
    n = len(labels)
    rows = make_rows(n=n, path=[f"{i}.png" for i in range(n)], label=list(labels), group=groups)
    return ImageTable(rows, classes=("a", "b", "c"), name="t"), [f"hash {i}" for i in range(n)]


def all_folds(images, content, folds=5, test=0.2, seed=3):
    spec = SplitSpec(test=test)
    return [fold(images, content, spec, seed, number=number, folds=folds) for number in range(1, folds + 1)]


def test_every_image_is_validated_on_once_and_the_test_images_never():
    images, content = table(np.arange(300) % 3)
    held_out = assign(images, content, SplitSpec(test=0.2), 3).test
    parts = all_folds(images, content)
    validated = np.concatenate([part.val for part in parts])
    np.testing.assert_array_equal(np.sort(validated), np.setdiff1d(np.arange(300), held_out))
    for part in parts:
        assert not set(part.train) & set(part.val)
        assert not {*part.train, *part.val} & set(held_out)
        assert not len(part.test)


def test_folds_are_stratified():
    labels = np.repeat([0, 1, 2], [200, 70, 30])
    for part in all_folds(*table(labels), test=0):
        np.testing.assert_allclose(np.bincount(labels[part.val]), [40, 14, 6], atol=1)


def test_copies_and_groups_stay_together():
    images, content = table(np.arange(120) % 3, groups=[f"patient {i // 6}" for i in range(120)])
    content[0] = content[119]
    for part in all_folds(images, content, test=0):
        for key in (images.groups, content):
            assert not {key[i] for i in part.train} & {key[i] for i in part.val}


def test_folds_depend_on_the_seed_alone():
    images, content = table(np.arange(60) % 3)
    one, same, other = (all_folds(images, content, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.val, b.val) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a.val, b.val) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("folds", [1, 9])
def test_folds_that_cannot_be_are_refused(folds):
    images, content = table([0] * 20 + [1] * 20 + [2] * 8)
    with pytest.raises(loupe.LoupeError, match="folds"):
        fold(images, content, SplitSpec(test=0), 0, number=1, folds=folds)


@pytest.mark.slow
def test_cross_validation_gives_the_spread_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    bunch = load_digits()
    x, y = (bunch.images[:300] * 15.9375).astype(np.uint8), bunch.target[:300]
    trained, train = [], runner.train

    def counted(*args, **kwargs):
        trained.append(kwargs["name"])
        return train(*args, **kwargs)

    monkeypatch.setattr(runner, "train", counted)
    arguments = {"recipe": "digits", "output": tmp_path, "device": "cpu", "quiet": True, "name": "d"}
    settings = ["stages.0.epochs=4", "precision=fp32"]
    found = loupe.cross_validate((x, y), folds=3, settings=settings, **arguments)
    assert trained == ["d-fold1of3", "d-fold2of3", "d-fold3of3"]
    values = [run.results.validation.accuracy.value for run in found.runs]
    assert found.metrics["accuracy"] == tuple(values)
    assert found.mean() == pytest.approx(np.mean(values))
    assert found.deviation() == pytest.approx(np.std(values, ddof=1))
    assert "accuracy" in str(found) and "3 folds" in str(found)
    assert all(run.results.test is None and run.results.test_looks == 0 for run in found.runs)
    seen = [run.results.images.val for run in found.runs]
    assert sum(seen) == 270, "300 images less the tenth that is set aside for testing"
    again = loupe.cross_validate((x, y), folds=3, settings=settings, **arguments)
    assert again.metrics == found.metrics
    assert len(trained) == 3, "finished folds are read"
    for other in ((255 - x, y), (x[1:], y[1:]), (x, y[::-1].copy())):
        with pytest.raises(loupe.LoupeError, match="was made with other images"):
            loupe.cross_validate(other, folds=3, settings=settings, **arguments)


def test_a_resumed_fold_keeps_its_split(tmp_path):
    """The split is read from the run, not drawn anew: what was trained on is never validated on."""
    images, content = table(np.arange(60) % 3)
    part = fold(images, content, SplitSpec(), 0, number=2, folds=3)
    from loupe.data.splits.split_file import write

    write(tmp_path / "split.csv", images, content, part)
    back = read(tmp_path / "split.csv", images, content)
    np.testing.assert_array_equal(back.val, part.val)
    np.testing.assert_array_equal(back.train, part.train)
