"""Weights at the end of a run: `keep: auto` after a schedule that anneals, and what is said of it."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import loupe
from loupe.comparison.sweep import train_or_open
from loupe.config.recipe import Stage
from loupe.data.dataset import open_dataset
from loupe.errors import RunStateError
from loupe.evaluate.history import beats_last
from loupe.recipes import catalog
from loupe.runs.options import RunOptions
from loupe.training import loop

ANNEALED = {"epochs": 3, "lr": 1e-3, "optimizer": "adam"}


def rows(*accuracies):
    return [{"val_accuracy": value} for value in accuracies]


@pytest.mark.parametrize(
    ("accuracies", "images", "expected"),
    [
        ((0.9, 0.8), 100, True),  # 1.96 standard errors: 0.098
        ((0.9, 0.8), 90, False),  # 0.103
        ((0.8, 0.9), 10_000, False),
        ((1.0, 1.0), 10, False),
        ((None, None), 0, False),
    ],
)
def test_an_epoch_beats_the_last_by_more_than_two_standard_errors(accuracies, images, expected):
    assert beats_last(rows(*accuracies), 1, images) is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "one-cycle"}, "last-unless-beaten"),
        ({"schedule": "cosine"}, "last-unless-beaten"),
        ({"schedule": {"name": "cosine", "final_fraction": 0.5}}, "best"),
        ({"schedule": "constant"}, "best"),
        ({"schedule": "one-cycle", "patience_epochs": 2}, "best"),
        ({"optimizer": "logistic", "part": "head"}, "best"),
    ],
)
def test_auto_goes_by_the_last_stage(changes, expected):
    recipe = catalog.recipe("digits").model_copy(update={"stages": (Stage.model_validate(ANNEALED | changes),)})
    assert recipe.keep == "auto" and recipe.keeps == expected
    assert recipe.model_copy(update={"keep": "last"}).keeps == "last"


def trained(tmp_path, name, **settings):
    bunch = load_digits()
    images, labels = (bunch.images[:300] * 15.9375).astype(np.uint8), bunch.target[:300]
    return loupe.train(
        (images, labels),
        recipe="digits",
        settings={"stages.0.epochs": 3, "stages.0.schedule": "one-cycle", "precision": "fp32", **settings},
        output=tmp_path,
        name=name,
        device="cpu",
        quiet=True,
    )


@pytest.mark.slow
def test_the_last_weights_are_kept_unless_the_best_are_better_by_more_than_chance(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "best_epoch", lambda history, stages, monitor: 0)  # the first epoch
    last = trained(tmp_path, "last", keep="last")
    found = trained(tmp_path, "auto")
    assert found.results.best_epoch == last.results.best_epoch == 3
    assert found.recipe.keep == "last-unless-beaten"
    assert "Kept: the weights of the last epoch." in (found.path / "train.log").read_text()
    x = load_digits().images[300:330].astype(np.uint8) * 15
    np.testing.assert_array_equal(found.predict_proba(x), last.predict_proba(x))
    monkeypatch.setattr(loop, "beats_last", lambda history, epoch, images: (epoch, images) == (1, 30))
    assert trained(tmp_path, "beaten").results.best_epoch == 1
    assert trained(tmp_path, "best", keep="best").results.best_epoch == 1


@pytest.mark.slow
def test_a_run_that_kept_the_weights_by_another_rule_is_another_run(tmp_path):
    dataset, options = open_dataset("digits", announce=False), RunOptions(tmp_path, "cpu", False, quiet=True)
    stage = catalog.recipe("digits").stages[0].model_copy(update={"epochs": 1})
    recipe = catalog.recipe("digits").model_copy(update={"stages": (stage,)})
    train_or_open(dataset, recipe.model_copy(update={"keep": "last"}), "one", options)
    with pytest.raises(RunStateError, match="keep"):
        train_or_open(dataset, recipe, "one", options)
