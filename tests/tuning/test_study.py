"""Study of a search: trials that depend on the seed and on those before alone; importances and chance."""

import sys

import numpy as np
import pytest

from loupe.config.recipe import Recipe
from loupe.errors import LoupeError
from loupe.recipes import catalog
from loupe.tuning.space import parse
from loupe.tuning.study import Study, check_installed, importances, score

pytest.importorskip("optuna")
RECIPE: Recipe = catalog.recipe("small-images")
SPACE = parse(["stages.0.lr=1e-3..1e-1:log", "stages.0.weight_decay=0..0.1", "stages.0.batch_size=64,128"], RECIPE)


def quality(settings) -> float:
    """Best at a rate of 0.02."""
    return 0.9 - 0.2 * abs(np.log10(settings["stages.0.lr"] / 0.02)) - 0.1 * settings["stages.0.weight_decay"]


def trials(study: Study, numbers: range) -> list[tuple[dict, bool]]:
    """Settings of each trial, and True where it was given up at the first rung."""
    found = []
    for number in numbers:
        settings = study.ask(number)
        early = study.is_given_up(0, quality(settings) - 0.1)
        if not early:
            study.is_given_up(1, quality(settings))
        study.tell(None if early else quality(settings))
        found.append((settings, early))
    return found


def test_the_first_trial_has_the_recipes_own_values():
    assert Study(SPACE, 2, 20, 0).ask(0) == {
        "stages.0.lr": 0.01,
        "stages.0.weight_decay": 0.01,
        "stages.0.batch_size": "128",
    }


def test_a_study_told_the_same_again_goes_on_with_the_same_trials():
    whole = trials(Study(SPACE, 2, 24, 5), range(24))
    again = Study(SPACE, 2, 24, 5)
    assert trials(again, range(11)) == whole[:11]
    resumed = Study(SPACE, 2, 24, 5)  # a new process, told the eleven trials from the files
    assert trials(resumed, range(11)) + trials(resumed, range(11, 24)) == whole
    assert trials(Study(SPACE, 2, 24, 6), range(24)) != whole
    assert 2 < sum(early for _, early in whole) < 22


def test_the_estimator_finds_better_settings_than_chance():
    found = trials(Study(SPACE, 1, 40, 0), range(40))
    late = [quality(settings) for settings, _ in found[20:]]
    generator = np.random.default_rng(0)
    chance = [quality({**found[0][0], "stages.0.lr": 10 ** generator.uniform(-3, -1)}) for _ in range(500)]
    assert np.mean(late) > np.mean(chance)


def test_a_small_space_is_tried_whole_and_each_setting_once():
    space = parse(["stages.0.batch_size=32,64,128", "stages.0.epochs=14..16"], RECIPE)
    study = Study(space, 1, 30, 0)
    assert (study.settings, study.is_exhaustive) == (9, True)
    found = [tuple(study.ask(number).values()) for number in range(9)]
    assert len({*found}) == 9 and found[0] == ("128", 15)
    assert not Study(space, 1, 8, 0).is_exhaustive
    assert Study(SPACE, 1, 30, 0).settings is None


def test_of_equal_accuracies_the_lower_loss_is_better():
    row = {"val_accuracy": 0.9, "val_loss": 0.4}
    assert score(row, "val_accuracy", False) > score({**row, "val_loss": 0.5}, "val_accuracy", False)
    assert score({**row, "val_accuracy": 0.9002}, "val_accuracy", False) > score(
        {**row, "val_loss": 0.0}, "val_accuracy", False
    )
    assert score(row, "val_loss", True) == -0.4


@pytest.mark.slow
def test_importance_is_told_from_chance():
    generator = np.random.default_rng(0)
    settings = [
        {"stages.0.lr": 10 ** generator.uniform(-3, -1), "stages.0.weight_decay": generator.uniform(0, 0.1)}
        for _ in range(30)
    ]
    signal = [quality({**one, "stages.0.weight_decay": 0}) for one in settings]
    found = importances(SPACE[:2], settings, signal, 0)
    assert found["stages.0.lr"].share > 0.8 and found["stages.0.lr"].p < 0.05 < found["stages.0.weight_decay"].p
    assert sum(one.share for one in found.values()) == pytest.approx(1)
    assert importances(SPACE[:2], settings[:9], signal[:9], 0) is None
    assert importances(SPACE[:2], settings, [0.5] * 30, 0) is None


def test_without_optuna_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LoupeError, match="pip install optuna"):
        check_installed()
