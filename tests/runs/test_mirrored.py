"""Horizontal flips that a recipe leaves open: decided before the training, recorded, and the user's choice kept."""

import numpy as np
import pytest

import loupe
from loupe.comparison.sweep import train_or_open
from loupe.data.dataset import open_dataset
from loupe.provenance import environment_of
from loupe.recipes import catalog
from loupe.rundir import RunDirectory
from loupe.runs import train as runs_train
from loupe.runs.options import RunOptions

LITTLE = {"stages.0.epochs": 1, "stages.0.batch_size": 64, "split.train": 100}


def trained(tmp_path, **settings):
    more = {f"stages.0.augment.{key}": value for key, value in settings.items()}
    run = loupe.train("digits", recipe="small-images", settings=LITTLE | more, output=tmp_path, quiet=True)
    return run.recipe.stages[0].augment, environment_of(run.directory).choices


def test_flips_are_left_out_for_digits_and_the_reason_is_recorded(tmp_path):
    augment, choices = trained(tmp_path)
    assert augment.horizontal_flip is False and augment.crop_padding_px == 4
    assert "left out" in choices["mirrored"] and "stages.0.augment.horizontal_flip=true" in choices["mirrored"]


def test_flips_that_are_asked_for_are_taken_without_a_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_train, "mirrored", None)
    augment, choices = trained(tmp_path, horizontal_flip=True)
    assert augment.horizontal_flip is True and "mirrored" not in choices


@pytest.mark.parametrize(("given", "taken"), [("auto", True), ("auto-alternate", "alternate")])
def test_what_auto_means(given, taken):
    augment = catalog.recipe("small-images").stages[0].augment.model_copy(update={"horizontal_flip": given})
    assert augment.flips == taken and augment.is_open
    assert augment.mirrored(True).horizontal_flip == taken and augment.mirrored(False).horizontal_flip is False


@pytest.mark.slow
def test_a_finished_run_is_opened_again_by_the_recipe_that_left_flips_open(tmp_path):
    recipe = catalog.recipe("small-images")
    stage = recipe.stages[0].model_copy(update={"epochs": 1})
    recipe = recipe.model_copy(update={"stages": (stage,), "split": recipe.split.model_copy(update={"train": 100})})
    dataset = open_dataset("digits", announce=False)
    options = RunOptions(tmp_path, "cpu", False, quiet=True)
    first = train_or_open(dataset, recipe, "one", options)
    before = RunDirectory(tmp_path / "one").file("results.json").stat().st_mtime_ns
    again = train_or_open(dataset, recipe, "one", options)
    assert np.isclose(first.results.test.accuracy.value, again.results.test.accuracy.value)
    assert RunDirectory(tmp_path / "one").file("results.json").stat().st_mtime_ns == before
