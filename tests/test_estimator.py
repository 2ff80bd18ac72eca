"""The scikit-learn estimator: scikit-learn's own checks, every kind of input, and features that are computed once."""

import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import loupe
from loupe.errors import ConfigError, DataError, LoupeError
from loupe.estimator import head
from loupe.training.features import FeatureExtractor

pytestmark = pytest.mark.usefixtures("bare")
TINY = {"model": "test_resnet", "weights": "none", "settings": {"input.size_px": 32, "input.load_px": 32}}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def computed(monkeypatch):
    """Number of images that went through a backbone."""
    counts: Counter[str] = Counter()
    compute = FeatureExtractor._computed

    def counted(self, images, rows_M, view):
        counts["images"] += len(rows_M)
        return compute(self, images, rows_M, view)

    monkeypatch.setattr(FeatureExtractor, "_computed", counted)
    return counts


def colours(each: int = 12, classes=("red", "green"), seed: int = 0):
    """Pictures of smooth noise with a tint for each class, uint8 [N, 32, 32, 3], and their labels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 160, (each * len(classes), 4, 4, 3), dtype=np.uint8)
    for number in range(len(classes)):
        coarse[number :: len(classes), ..., number] += 60
    return coarse.repeat(8, axis=1).repeat(8, axis=2), np.array([*classes] * each)


def tiny(**given) -> loupe.LoupeClassifier:
    return loupe.LoupeClassifier(**{**TINY, "C": 1.0, **given})


@pytest.mark.slow
def test_every_check_of_scikit_learn_passes():
    """At least 40 are executed, and none is expected to fail."""
    pytest.importorskip("sklearn", minversion="1.6")  # before, the checks have no results to count
    found = check_estimator(loupe.LoupeClassifier(), on_fail=None, on_skip=None)
    statuses = Counter(one["status"] for one in found)
    wrong = [(one["check_name"], one["exception"]) for one in found if one["status"] in ("failed", "xfail")]
    assert not wrong
    assert statuses["passed"] >= 40
    assert statuses["passed"] + statuses["skipped"] == len(found)


@pytest.mark.slow
def test_a_table_of_features_is_solved_as_by_scikit_learn():
    x, y = make_blobs(150, centers=3, n_features=6, cluster_std=4.0, random_state=0)
    weight = np.random.default_rng(0).uniform(0, 2, len(x))
    for labels, c in ((y, 0.1), (y == 1, 10.0)):
        mine = loupe.LoupeClassifier(C=c).fit(x, labels, weight)
        theirs = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, labels, weight)
        np.testing.assert_allclose(mine.predict_proba(x), theirs.predict_proba(x), atol=2e-3)
        np.testing.assert_array_equal(mine.classes_, theirs.classes_)
    assert loupe.LoupeClassifier().fit(x, y).C_ == 1.0


@pytest.mark.slow
def test_weights_are_repetitions_and_order_has_no_part():
    x, y = make_blobs(60, centers=2, n_features=4, cluster_std=3.0, random_state=1)
    times = np.random.default_rng(1).integers(0, 4, 60)
    content = [f"{i}" for i in range(60)]
    weighted = head.solved(x.astype(np.float32), y, content, times.astype(float), 2, "auto")
    each = np.random.default_rng(2).permutation(np.repeat(np.arange(60), times))
    repeated = head.solved(
        x.astype(np.float32)[each], y[each], [content[i] for i in each], np.ones(len(each)), 2, "auto"
    )
    assert weighted.c == repeated.c
    np.testing.assert_array_equal(weighted.weight_KC, repeated.weight_KC)


def test_class_weights():
    x, y = make_blobs([80, 20], n_features=4, cluster_std=4.0, random_state=0)
    for given in ("balanced", {0: 0.5, 1: 3.0}):
        mine = loupe.LoupeClassifier(C=1.0, class_weight=given).fit(x, y).predict_proba(x)
        theirs = LogisticRegression(class_weight=given, tol=1e-8, max_iter=10_000).fit(x, y).predict_proba(x)
        np.testing.assert_allclose(mine, theirs, atol=2e-3)
    without = loupe.LoupeClassifier(C=1.0, class_weight={2: 0.0}).fit(*make_blobs(60, centers=3, random_state=0))
    assert set(without.predict(make_blobs(60, centers=3, random_state=0)[0])) <= {0, 1}


@pytest.mark.slow
def test_every_kind_of_images_is_the_same(tmp_path, computed):
    x, y = colours()
    paths = [tmp_path / f"{i}.png" for i in range(len(x))]
    for path, pixels in zip(paths, x, strict=True):
        Image.fromarray(pixels).save(path)
    expected = tiny().fit(x, y).predict_proba(x)
    assert (tiny().fit(x, y).predict(x) == y).mean() == 1.0
    kinds = {
        "texts": [*map(str, paths)],
        "paths": paths,
        "array of texts": np.array([*map(str, paths)]),
        "PIL": [Image.open(path) for path in paths],
        "arrays": [*x],
        "floats": x / 255,
        "floats to 255": x.astype(float),
    }
    for name, images in kinds.items():
        np.testing.assert_allclose(tiny().fit(images, y).predict_proba(images), expected, atol=1e-6, err_msg=name)
    flat = tiny(image_shape=(32, 32, 3)).fit(x.reshape(len(x), -1), y)
    assert flat.n_features_in_ == 32 * 32 * 3
    np.testing.assert_allclose(flat.predict_proba(x.reshape(len(x), -1)), expected, atol=1e-6)
    np.testing.assert_allclose(flat.predict_proba(x), expected, atol=1e-6)
    grey = tiny().fit(x[..., 0], y)
    assert grey.predict(x[..., 0]).shape == (len(x),)
    assert computed["images"] <= 3 * len(x), "bytes of BMP, of PNG, and grey"


def test_a_dark_image_alone_is_read_in_the_range_of_fit():
    x, y = colours()
    model = tiny().fit(x.astype(float), y)
    dark = np.clip(x[:2], 0, 1)
    np.testing.assert_allclose(model.predict_proba(dark.astype(float)), model.predict_proba(dark), atol=1e-6)
    with pytest.raises(DataError, match="range of fit"):
        tiny().fit(x / 255, y).predict(x.astype(float))


@pytest.mark.slow
def test_features_are_computed_once_for_all_folds_and_settings(computed, tmp_path, capfd):
    x, y = colours(20)
    search = GridSearchCV(tiny(), {"C": [1e-3, 1e-1, 10.0]}, cv=5).fit(x, y)
    assert computed["images"] == len(x)
    assert search.best_score_ > 0.9
    assert cross_val_score(tiny(), x, y, cv=3).mean() > 0.9
    assert computed["images"] == len(x)
    calibrated = CalibratedClassifierCV(tiny(), cv=3).fit(x, y)
    np.testing.assert_allclose(calibrated.predict_proba(x).sum(axis=1), 1)
    mirror = FunctionTransformer(lambda images: images[:, :, ::-1])
    assert make_pipeline(mirror, tiny()).fit(x, y).score(x, y) > 0.9
    assert computed["images"] == 2 * len(x)
    assert capfd.readouterr() == ("", ""), "nothing is printed"


@pytest.mark.slow
def test_two_workers_share_the_store(tmp_path, monkeypatch):
    """The same figures as one process, from one store of features; workers import Loupe themselves."""
    monkeypatch.syspath_prepend(str(Path(loupe.__file__).parents[1]))
    x, y = colours(10)
    grid = {"C": [1e-3, 1.0]}
    two = GridSearchCV(tiny(cache=tmp_path / "two"), grid, cv=3, n_jobs=2).fit(x, y)
    one = GridSearchCV(tiny(cache=tmp_path / "one"), grid, cv=3).fit(x, y)
    np.testing.assert_array_equal(two.cv_results_["mean_test_score"], one.cv_results_["mean_test_score"])
    assert two.best_params_ == one.best_params_


def test_a_pickle_holds_the_network_and_no_images(tmp_path):
    x, y = colours()
    model = tiny().fit(x, y)
    data = pickle.dumps(model)
    weights = sum(value.nbytes for value in model.model_.backbone.extractor.model.state_dict().values())
    assert len(data) < weights + 100_000 < 2 * weights + x.nbytes
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    other, labels = colours(seed=3)
    np.testing.assert_array_equal(again.predict_proba(other), model.predict_proba(other))
    assert (again.predict(other) == labels).mean() > 0.8
    assert abs(len(pickle.dumps(again)) - len(data)) < 200
    assert len(pickle.dumps(clone(model))) < 2000


@pytest.mark.slow
def test_c_is_chosen_out_of_fold():
    x, y = colours(10)
    y = np.where(np.arange(len(y)) % 5 == 0, y[::-1], y)
    assert tiny(C="auto").fit(x, y).C_ > 0
    assert tiny(C="auto").fit(x[:3], ["a", "b", "b"]).C_ == head.FEW_C, "one image of a class"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["small-images", "last-block"])
def test_trained_recipes(recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    x, y = colours(20, classes=(3, 7, 11))
    given = {"settings": {"stages.0.epochs": 3, "input.size_px": 32, "input.load_px": 32}}
    if recipe == "last-block":
        given = {**TINY, "settings": {**TINY["settings"], "stages.1.epochs": 2}}
    model = loupe.LoupeClassifier(recipe, random_state=5, **given).fit(x, y)
    assert model.classes_.tolist() == [3, 7, 11]
    assert model.predict_proba(x).shape == (60, 3)
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)
    again = loupe.LoupeClassifier(recipe, random_state=5, **given).fit(x, y)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), model.predict_proba(x))
    assert [*tmp_path.iterdir()] in ([], [tmp_path / "cache"]), "no run is left"
    assert capfd.readouterr() == ("", "")
    with pytest.raises(LoupeError, match="weights of samples"):
        loupe.LoupeClassifier(recipe, **given).fit(x, y, sample_weight=np.arange(60))
    with pytest.raises(LoupeError, match="trains in steps"):
        loupe.LoupeClassifier(recipe, C=1.0, **given).fit(x, y)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"C": 0}, "above 0"),
        ({"C": "best"}, "auto"),
        ({"recipe": "featurs"}, "features"),
        ({"recipe": None}, "loupe recipes"),
        ({"model": "tf_efficientnet_lite9"}, "tf_efficientnet_lite"),
        ({"image_shape": 32}, "height, width"),
        ({"image_shape": (32, 32, 2)}, "1, 3 or 4"),
        ({"class_weight": "equal"}, "balanced"),
        ({"class_weight": {"blue": 1.0}}, "blue"),
        ({"epochs": 3}, "Give C"),
        ({"lr": 0.1}, "learning rate"),
        ({"device": "gpu"}, "unknown device"),
        ({"weights": "timm"}, "not on this machine"),
        ({"settings": {"split.tests": 0}}, "split.test"),
    ],
)
def test_wrong_parameters_are_refused_in_fit(given, words, monkeypatch):
    monkeypatch.setattr("loupe.estimator.request.weights_files", lambda network: ())
    x, y = colours(3)
    with pytest.raises(LoupeError, match=words):
        tiny(**given).fit(x, y)


def test_wrong_images_are_refused(tmp_path):
    x, y = colours(3)
    model = tiny().fit(x, y)
    with pytest.raises(ValueError, match="y to be passed"):
        tiny().fit(x, None)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        tiny().fit(x, y[:-1])
    with pytest.raises(DataError, match="one class"):
        tiny().fit(x, ["a"] * len(x))
    with pytest.raises(DataError, match="holds no images"):
        model.predict(np.zeros((3, 5)))
    with pytest.raises(DataError, match="image_shape"):
        tiny(image_shape=(8, 8)).fit(np.zeros((6, 65)), y)
    with pytest.raises(ConfigError, match="image_shape"):
        tiny().fit(x.reshape(len(x), -1), y)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"damaged\.png"):
        model.predict([str(damaged)])
    with pytest.raises(DataError):
        model.predict([str(tmp_path / "absent.png")])


def test_importing_loupe_imports_neither_torch_nor_scikit_learn():
    code = "import sys, loupe; assert 'LoupeClassifier' in loupe.__all__; print({'torch', 'sklearn'} & {*sys.modules})"
    path = os.pathsep.join([str(Path(loupe.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


@pytest.mark.slow
def test_flat_digits_are_images_with_their_shape():
    digits = load_digits()
    x, y = digits.data[:300] / 16, digits.target[:300]
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    accuracy = cross_val_score(tiny(image_shape=(8, 8), C=1000.0), x, y, cv=folds).mean()
    assert accuracy > 0.3, "random weights, so that a tenth is chance"
    in_rows = cross_val_score(tiny(C=1000.0), x.reshape(-1, 8, 8), y, cv=folds).mean()
    assert in_rows == accuracy
