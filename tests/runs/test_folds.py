"""Out-of-fold evaluation and refit of a solved head, against scikit-learn on the same features."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

import loupe
from builders import without_slow_parts
from loupe.comparison.plan import resolve_candidates
from loupe.comparison.request import ComparisonRequest
from loupe.config.optimizer import Logistic
from loupe.config.recipe import AugmentSpec, SplitSpec, Stage
from loupe.data.dataset import open_dataset
from loupe.data.splits.folds import as_many_as_fit
from loupe.errors import ConfigError, InterruptedRunError, RunStateError, StoppedError
from loupe.evaluate import calibration
from loupe.evaluate.predictions import join, read_splits
from loupe.recipes import catalog
from loupe.report import run_page
from loupe.runs import session
from loupe.runs.diff import differences
from loupe.runs.finalize import open_test
from loupe.runs.train import load
from loupe.training.solver import logits_layer

HEAD = Stage(epochs="auto", part="head", optimizer=Logistic())
WRITE_PAGE = run_page.write_page


def recipe(*stages: Stage, **changes):
    """A head on the random trunk of a small network, which stands for a pretrained one."""
    base = catalog.recipe("digits")
    network = base.model.model_copy(update={"hidden": ()})
    return base.model_copy(update={"model": network, "monitor": "val_loss", "stages": stages or (HEAD,), **changes})


def digits(images: int = 360):
    """Digits, of which every fifth has another label, so that there are mistakes to calibrate on."""
    bunch = load_digits()
    wrong = np.arange(images) % 5 == 0
    return (bunch.images[:images] * 15.9375).astype(np.uint8), (bunch.target[:images] + 3 * wrong) % 10


def trained(output, name, given=None, data=None, **changes):
    changes = {"precision": "fp32", "device": "cpu", "quiet": True, **changes}
    return loupe.train(
        digits() if data is None else data, recipe=given or recipe(), output=output, name=name, **changes
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run without refit, and one with it that was interrupted before its folds."""
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        plain = trained(output, "plain")
        with pytest.MonkeyPatch.context() as stopping:

            def stopped(*_):
                raise StoppedError("stopped")

            stopping.setattr(session, "evaluate_by_folds", stopped)
            with pytest.raises(InterruptedRunError):
                trained(output, "refit", refit=True)
        refitted = loupe.resume(output / "refit", digits(), device="cpu", quiet=True)
    return plain, refitted


def features(run, rows_N) -> np.ndarray:
    """Inputs of the last layer of the head for these rows."""
    own, _ = run.own_images(digits())
    seen, layer = [], logits_layer(run.model)
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double().numpy()))
    run.predictions_for(own, rows_N, in_torch=True)
    hook.remove()
    return np.concatenate(seen)


def solved(x, y, strength: float) -> LogisticRegression:
    return LogisticRegression(C=1 / strength, max_iter=10_000, tol=1e-8).fit(x, y)


def test_each_image_is_predicted_by_a_head_of_the_other_folds(runs):
    plain, _ = runs
    stored = read_splits(plain.directory.fold_predictions)
    assert {name: len(part) for name, part in stored.items()} == {"train": 288, "val": 36}
    tested = read_splits(plain.path / "predictions.csv")["test"]
    assert not set(tested.content) & {digest for part in stored.values() for digest in part.content}
    together, block = join([*stored.values()]), plain.results.folds
    assert block.images == 324 and block.folds == 5 and block.learned == 259 and block.chosen_on == "validation"
    assert block.l2_strength == plain.results.stages[0].l2_strength
    assert block.accuracy.value == pytest.approx(accuracy_score(together.label, together.predicted))
    assert plain.results.refit is None and plain.results.seconds.folds > 0


def test_the_folds_are_those_of_heads_that_scikit_learn_solves_and_the_refitted_head_is_that_of_all_images(runs):
    _, run = runs
    own, split = run.own_images(digits())
    pool_N = np.concatenate([split.train, split.val])
    x, y, strength = features(run, pool_N), own.table.labels[pool_N], run.results.refit.l2_strength
    stored = join([*read_splits(run.directory.fold_predictions).values()])
    order = np.argsort(pool_N)
    fold_N = np.empty(len(pool_N), np.int64)
    fold_N[order] = as_many_as_fit(own.table, own.content, pool_N[order], seed=run.recipe.split_seed)
    for fold in (4,):
        rest = fold_N != fold
        probability = solved(x[rest], y[rest], strength).predict_proba(x[~rest])
        np.testing.assert_allclose(softmax(stored.logits_NK[~rest], axis=1), probability, atol=0.02)
    tested = read_splits(run.path / "predictions.csv")["test"]
    expected = solved(x, y, strength).predict_proba(features(run, split.test))
    np.testing.assert_allclose(softmax(tested.logits_NK, axis=1), expected, atol=0.02)
    assert run.results.refit.images == run.results.folds.images == 324
    assert run.results.folds.chosen_on == run.results.calibration.fitted_on == "folds"


def test_after_a_refit_validation_figures_and_temperature_are_of_the_folds(runs):
    plain, run = runs
    of_folds = read_splits(run.directory.fold_predictions)
    validation = read_splits(run.path / "predictions.csv")["val"]
    np.testing.assert_array_equal(validation.logits_NK, of_folds["val"].logits_NK)
    assert validation.content == read_splits(plain.path / "predictions.csv")["val"].content
    fitted = calibration.fit_temperature(join([*of_folds.values()]))
    assert fitted.images == 324 and run.temperature == fitted.value != 1.0
    assert run.results.validation.accuracy.value == accuracy_score(validation.label, validation.predicted)
    evaluated = run.evaluate("val")
    assert evaluated.images == 324 and evaluated.accuracy == run.results.folds.accuracy
    with pytest.raises(ConfigError, match="test-time augmentation"):
        load(run.path, tta="flip-shift").evaluate("val")
    with pytest.raises(RunStateError, match=r"fold_predictions\.csv"):
        run.predictions_of("val")
    whole = run.evaluate("test", data=digits(400))  # 36 test images, and 40 that the run does not know
    assert whole.images == 76
    assert run.evaluate("val", data=digits(400)).images == 40


def test_what_the_page_and_the_files_say(runs):
    for run in runs:
        WRITE_PAGE(run.path)
        page = (run.path / "report.html").read_text(encoding="utf-8")
        assert "each of the 324 training and validation images predicted by a head" in page
        assert ("Refit: the head learned from all 324" in page) == (run.path.name == "refit")
        found = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
        assert ("refit" in found) == (run.path.name == "refit") and found["folds"]["images"] == 324


def test_a_repeated_run_is_the_same_and_one_of_before_the_folds_is_compared_without(runs, tmp_path, monkeypatch):
    without_slow_parts(monkeypatch)
    _, run = runs
    again = open_test(trained(tmp_path, "again", refit=True, open_test=False), digits())
    found = differences(run.directory, again.directory)
    # Test images are predicted from pixels there, and from cached outputs of the frozen blocks in 16 bits here.
    assert not found.differences.weights and {row.key for row in found.differences.predictions} <= {"test"}
    assert found.compared["predictions"] == 36 + 36 + 324
    assert again.results.folds == run.results.folds and again.results.refit == run.results.refit
    assert again.temperature == run.temperature and again.results.calibration.fitted_on == "folds"
    (again.path / "fold_predictions.csv").unlink()
    path = again.path / "results.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["folds"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    found = differences(run.directory, again.directory)
    assert found.compared["predictions"] == 36 + 36 and not any("folds" in row.key for row in found.differences.results)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (recipe(HEAD.model_copy(update={"augment": AugmentSpec(rotation_degrees=5)})), "augmented images"),
        (recipe(HEAD, catalog.recipe("digits").stages[0]), "in steps"),
        (recipe(split=SplitSpec(validation=0.0)), "no validation images"),
    ],
)
def test_a_refit_is_refused_where_it_can_do_nothing(tmp_path, given, reason):
    with pytest.raises(ConfigError, match=reason):
        trained(tmp_path, "refused", given, refit=True)
    assert not [*tmp_path.iterdir()]


def test_a_refit_needs_two_images_of_each_class_and_no_folds_of_a_comparison(tmp_path):
    x, y = digits()
    few = np.concatenate([np.flatnonzero(y != 9), np.flatnonzero(y == 9)[:1]])
    with pytest.raises(ConfigError, match="9"):
        trained(tmp_path, "one", data=(x[few], y[few]), refit=True)
    path = tmp_path / "head.yaml"
    path.write_text(recipe(refit=True).to_yaml(), encoding="utf-8")
    with pytest.raises(ConfigError, match="--folds"):
        resolve_candidates(open_dataset(digits(), announce=False), ComparisonRequest((str(path), "digits"), folds=5))
