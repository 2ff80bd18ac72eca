"""Verdicts on learning curves whose story is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from loupe.config import overrides
from loupe.config.optimizer import OneCycle
from loupe.evaluate.learning_curves import diagnose
from loupe.recipes.catalog import recipe

PLAIN = recipe("lecture-dropout")
EPOCHS = 40


def curve(
    train_loss: Callable[[int], float],
    val_loss: Callable[[int], float],
    train_accuracy: float = 0.8,
    val_accuracy: float = 0.74,
    noise: float = 0.0,
    epochs: int = EPOCHS,
    stage: int = 1,
    seed: int = 0,
) -> list[dict[str, float | int | None]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "epoch": epoch,
            "stage": stage,
            "train_loss": train_loss(epoch),
            "train_accuracy": train_accuracy,
            "val_loss": val_loss(epoch) + noise * rng.standard_normal(),
            "val_accuracy": val_accuracy,
        }
        for epoch in range(1, epochs + 1)
    ]


def falling(epoch: int) -> float:
    return 0.4 + math.exp(-epoch / 4)


def turning_at(lowest: int, slope: float = 0.02) -> Callable[[int], float]:
    return lambda epoch: 0.8 + slope * abs(epoch - lowest)


def judge(history, chosen=PLAIN, commonest=0.1):
    return diagnose(history, chosen, commonest=commonest, images=5000, blocks=3)


@pytest.mark.parametrize("lowest", [5, 15, 30])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_overfitting_begins_where_validation_loss_turns(lowest, noise):
    found = judge(curve(lambda epoch: 2.0 - 0.04 * epoch, turning_at(lowest), noise=noise))
    assert found.verdict == "overfitting"
    assert found.epoch == pytest.approx(lowest, abs=1)
    assert f"epoch {found.epoch}" in found.text


def test_validation_loss_that_rises_with_training_loss_is_not_overfitting():
    assert judge(curve(turning_at(15), turning_at(15))).verdict != "overfitting"


def test_noise_is_rarely_taken_for_a_story():
    """A level validation loss with noise, 200 times: by the rules' margins, false alarms are a few in a hundred."""
    verdicts = [
        judge(curve(lambda epoch: 2.0 - 0.04 * epoch, lambda epoch: 0.8, noise=0.03, seed=seed)).verdict
        for seed in range(200)
    ]
    assert verdicts.count("level") >= 190


def test_a_curve_still_falling_at_a_constant_rate_wants_more_epochs():
    found = judge(curve(lambda epoch: 2.0 - 0.03 * epoch, lambda epoch: 2.0 - 0.02 * epoch))
    assert (found.verdict, found.epoch) == ("improving", EPOCHS)
    assert found.settings == ("stages.0.epochs=80",)


def test_a_rate_lowered_to_the_end_proves_nothing_by_falling():
    stage = PLAIN.stages[0].model_copy(update={"schedule": OneCycle()})
    annealed = PLAIN.model_copy(update={"stages": (stage,)})
    assert judge(curve(lambda e: 2.0 - 0.03 * e, lambda e: 2.0 - 0.02 * e), annealed).verdict == "level"


@pytest.mark.parametrize(
    ("train", "val", "verdict"),
    [(0.95, 0.74, "memorising"), (0.75, 0.74, "agreeing"), (0.70, 0.74, "underfitting"), (0.80, 0.74, "level")],
)
def test_flat_curves_are_told_apart_by_the_gap(train, val, verdict):
    assert judge(curve(falling, falling, train, val)).verdict == verdict


def test_chance_is_recognised_for_what_it_is():
    assert judge(curve(falling, falling, 0.102, 0.099)).verdict == "not-learning"
    assert judge(curve(falling, falling, 0.51, 0.50), commonest=0.5).verdict == "not-learning"
    assert judge(curve(falling, falling, 0.30, 0.29)).verdict != "not-learning"


def test_a_jumping_curve_is_unstable():
    found = judge(curve(falling, lambda epoch: 1.0, noise=0.3))
    assert found.verdict == "unstable"
    assert "stages.0.schedule=one-cycle" in found.settings


def test_too_little_is_not_judged():
    assert judge(curve(falling, falling, epochs=4)).verdict == "unjudged"
    unmeasured = [{**row, "val_loss": None, "val_accuracy": None} for row in curve(falling, falling)]
    assert judge(unmeasured, commonest=None).verdict == "unjudged"


def test_the_last_stage_is_judged_in_epochs_of_all():
    two = recipe("lecture-augment")
    second = [
        {**row, "epoch": row["epoch"] + EPOCHS}
        for row in curve(lambda epoch: 2.0 - 0.04 * epoch, turning_at(15), stage=2)
    ]
    found = judge([*curve(falling, falling), *second], two)
    assert (found.verdict, found.epoch) == ("overfitting", EPOCHS + 15)
    assert any(setting.startswith("stages.1.") or setting.startswith("model.") for setting in found.settings)


HISTORIES = {
    "overfitting": curve(lambda epoch: 2.0 - 0.04 * epoch, turning_at(15)),
    "improving": curve(lambda epoch: 2.0 - 0.03 * epoch, lambda epoch: 2.0 - 0.02 * epoch),
    "memorising": curve(falling, falling, 0.95, 0.74),
    "agreeing": curve(falling, falling, 0.75, 0.74),
    "underfitting": curve(falling, falling, 0.65, 0.74),
    "not-learning": curve(falling, falling, 0.1, 0.1),
    "unstable": curve(falling, lambda epoch: 1.0, noise=0.3),
}


@pytest.mark.parametrize("verdict", HISTORIES)
@pytest.mark.parametrize("name", ["lecture-dropout", "simple-cnn", "deep-cnn", "digits", "photographs"])
def test_what_is_recommended_is_a_recipe_and_another_one(verdict, name):
    found = judge(HISTORIES[verdict], recipe(name))
    assert overrides.override(recipe(name), found.settings) != recipe(name)


def test_where_little_is_left_to_gain_nothing_is_recommended():
    found = judge(curve(falling, falling, 0.991, 0.99))
    assert (found.verdict, found.settings) == ("agreeing", ())


def test_a_network_held_back_is_given_more_epochs_and_less_of_its_strongest_dropout():
    found = judge(curve(falling, falling, 0.65, 0.74), recipe("simple-cnn"))
    assert found.verdict == "underfitting"
    assert found.settings == ("stages.0.epochs=200", "model.hidden.0.dropout=0.2")


@pytest.mark.parametrize(
    ("part", "more"), [("head", "last-block"), ("last-block", "last-2"), ("last-2", "all"), ("all", None)]
)
def test_one_block_more_may_learn_until_all_do(part, more):
    """A trunk of three blocks: its last two can be named, and no more."""
    base = recipe("last-block")
    chosen = base.model_copy(update={"stages": (base.stages[1].model_copy(update={"part": part}),)})
    found = [text for text in judge(HISTORIES["agreeing"], chosen).settings if ".part=" in text]
    assert found == ([f"stages.0.part={more}"] if more else [])


@pytest.mark.parametrize(
    ("accuracy", "blocks", "next_recipe"), [(0.9, 8, "last-block"), (0.9, 1, "finetune"), (0.985, 8, None)]
)
def test_a_solved_head_is_followed_by_more_of_the_network_unless_little_is_left(accuracy, blocks, next_recipe):
    rows = curve(falling, turning_at(6), 0.99, accuracy, epochs=11)
    found = diagnose(rows, recipe("features"), commonest=0.1, images=500, blocks=blocks)
    assert (found.recipe, found.settings, found.epoch) == (next_recipe, (), 6)
    at_the_end = diagnose(curve(falling, falling, epochs=11), recipe("features"), commonest=0.1, images=9, blocks=8)
    assert at_the_end.settings == ("stages.0.optimizer.weakest=0.001",)
