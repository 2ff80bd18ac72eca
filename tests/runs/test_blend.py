"""Blends of trained runs: complete runs, whose probabilities are the weighted mean of those of their members."""

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax

import loupe
from builders import without_slow_parts
from loupe.config.network import BlendSpec
from loupe.errors import ConfigError, RunStateError
from loupe.provenance import environment_of
from loupe.report import run_page
from loupe.runs.blend import blend
from loupe.runs.finalize import open_test
from loupe.search import blend as blends

SMALL = {"split.validation": 0.3, "split.seed": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        patch.setenv("LOUPE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        options = {"open_test": False, "quiet": True, "epochs": 1, "device": "cpu"}
        yield [
            loupe.train("digits", recipe="digits", name="one", settings=SMALL, **options),
            loupe.train("digits", recipe="digits", name="two", settings={**SMALL, "seed": 1}, **options),
        ]


@pytest.fixture(scope="module")
def blended(members):
    return blend(members, (3, 1), output=members[0].path.parent, name="both")


def validation(run):
    return run.predictions_of("val")


def test_a_blend_predicts_the_weighted_mean_of_calibrated_probabilities(members, blended):
    mean_NK = sum(
        share * softmax(validation(run).logits_NK / run.temperature, axis=1)
        for share, run in zip((0.75, 0.25), members, strict=True)
    )
    np.testing.assert_allclose(softmax(validation(blended).logits_NK, axis=1), mean_NK, atol=1e-6)


def test_a_blend_is_a_complete_run(members, blended):
    files = {file.name for file in blended.path.iterdir()}
    assert files >= {"results.json", "predictions.csv", "recipe.yaml", "split.csv", "environment.json", "model"}
    results = loupe.load(blended.path).results
    assert results.validation.images == members[0].results.validation.images
    assert results.test is None and results.epochs == 0 and results.best_epoch is None
    assert [one.name for one in results.made_of] == ["one", "two"]
    assert [one.share for one in environment_of(blended.directory).made_of] == [0.75, 0.25]
    assert results.parameters.total == sum(run.results.parameters.total for run in members)
    assert isinstance(loupe.load(blended.path).recipe.model, BlendSpec)
    assert "Learning curves" not in run_page.in_notebook(blended.path)  # it was not trained


def test_the_test_images_of_a_blend_are_opened_later(members):
    made = blend(members, output=members[0].path.parent, name="tested")
    assert made.results.test is None
    assert open_test(made).results.test.images == made.results.images.test


def test_a_blend_of_a_blend_is_the_mean_of_both(members, blended):
    nested = blend([blended, members[1]], output=members[0].path.parent, name="nested")
    mean_NK = 0.5 * softmax(validation(blended).logits_NK / blended.temperature, axis=1)
    mean_NK = mean_NK + 0.5 * softmax(validation(members[1]).logits_NK / members[1].temperature, axis=1)
    np.testing.assert_allclose(softmax(validation(nested).logits_NK, axis=1), mean_NK, atol=1e-6)


def test_what_cannot_be_blended_is_refused_and_leaves_nothing(members, monkeypatch):
    folder = members[0].path.parent
    before = sorted(folder.iterdir())
    for shares in ((1, 0), (1,), (-1, 2), (float("nan"), 1)):
        with pytest.raises(ConfigError):
            blend(members, shares, output=folder)
    monkeypatch.setattr("loupe.runs.finalize.bundle.save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        blend(members, output=folder, name="failed")
    assert sorted(folder.iterdir()) == before


def test_a_member_that_was_trained_on_other_splits_is_refused(members):
    settings = {**SMALL, "split.seed": 5}
    other = loupe.train(
        "digits", recipe="digits", name="other", settings=settings, epochs=1, open_test=False, quiet=True, device="cpu"
    )
    with pytest.raises(ConfigError, match="other and one have other validation images"):
        blend([members[0], other], output=members[0].path.parent)
    with pytest.raises(ConfigError, match="given twice"):
        blend([members[0], members[0]], output=members[0].path.parent)


def test_a_blend_is_neither_trained_nor_resumed(members, blended):
    with pytest.raises(ConfigError, match="nothing to train"):
        loupe.train("digits", recipe=blended.path / "recipe.yaml", quiet=True)
    with pytest.raises(ConfigError, match="cannot be trained on"):
        loupe.train("digits", recipe="digits", weights=blended.path, quiet=True)
    unfinished = blend(members, output=members[0].path.parent, name="unfinished")
    (unfinished.path / "results.json").unlink()
    with pytest.raises(RunStateError, match="loupe blend"):
        loupe.resume(unfinished.path, quiet=True)


def test_the_network_of_a_blend_is_read_back(blended):
    spec = json.loads((blended.path / "model" / "config.json").read_text())["network"]
    assert [member["share"] for member in spec["members"]] == [3.0, 1.0]
    x_BCHW = torch.rand(2, blended.model.preprocessing.channels, *blended.model.preprocessing.size)
    assert blended.model(x_BCHW).exp().sum(dim=1).detach().numpy() == pytest.approx(1.0, abs=1e-5)


def test_shares_are_selected_on_validation_images_and_judged_on_others(members):
    known = blends.library(members)
    shares = known.shares()
    assert sum(shares) == pytest.approx(1) and all(shares)
    fold = int(known.fold_N[0])
    of_others = known.shares(known.fold_N != fold)
    np.testing.assert_allclose(known.cross_fitted()[0], known.mean(of_others)[0])
    made = blends.blend(members, output=members[0].path.parent, name="selected")
    np.testing.assert_allclose([one.share for one in made.results.made_of], shares)
    verdict = loupe.load(made.path).results.blend
    best = max(run.results.validation.accuracy.value for run in members)
    right = known.cross_fitted().argmax(axis=1) == known.label_N
    assert verdict.difference.value == pytest.approx(right.mean() - best) and verdict.cross_fitted
    assert verdict.difference.low <= verdict.difference.value <= verdict.difference.high
    assert verdict.predict_seconds > 0 and "times the time of a prediction" in verdict.text


@pytest.mark.slow
def test_runs_of_other_input_sizes_are_blended(members):
    settings = {**SMALL, "input.size_px": 12, "input.load_px": 12}
    other = loupe.train(
        "digits", recipe="digits", name="larger", settings=settings, epochs=1, open_test=False, quiet=True, device="cpu"
    )
    made = blend([members[0], other], output=members[0].path.parent, name="sizes")
    assert made.preprocessing.size_px == 12
    mean_NK = sum(0.5 * validation(run).calibrated(run.temperature).probabilities_NK for run in (members[0], other))
    assert np.abs(softmax(validation(made).logits_NK, axis=1) - mean_NK).mean() < 0.05
