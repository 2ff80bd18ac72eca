"""Verdicts on learning curves whose story is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loupe.config import overrides
from loupe.config.optimizer import Logistic, OneCycle
from loupe.config.recipe import Stage
from loupe.evaluate.chance import LabelCounts, association, gap_interval
from loupe.evaluate.learning_curves import FEWEST_IMAGES, diagnose
from loupe.evaluate.verdicts import NEARLY_ALL
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
            "l2_strength": 10 ** (4 - epoch / 2),  # read where a head is solved
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
    training, validation = counts(45_000, commonest), counts(5000, commonest)
    return diagnose(history, chosen, training=training, validation=validation, blocks=3)


def counts(images, commonest):
    return LabelCounts(images, round(commonest * images))


@pytest.mark.parametrize("lowest", [5, 15, 30])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_overfitting_begins_where_validation_loss_turns(lowest, noise):
    found = judge(curve(lambda epoch: 2.0 - 0.04 * epoch, turning_at(lowest), noise=noise))
    assert found.verdict == "overfitting"
    assert found.epoch == pytest.approx(lowest, abs=1)
    assert f"epoch {found.epoch}" in found.text


@pytest.mark.parametrize("tried", [1, 7])
def test_epochs_are_numbered_without_the_strengths_of_a_solved_head(tried):
    head = Stage(epochs=tried, part="head", optimizer=Logistic())
    chosen = PLAIN.model_copy(update={"stages": (head, *PLAIN.stages)})
    solved_rows = curve(falling, falling, epochs=tried)
    trained = curve(lambda epoch: 2.0 - 0.04 * epoch, turning_at(15), stage=2)
    history = [*solved_rows, *({**row, "epoch": row["epoch"] + tried} for row in trained)]
    found = judge(history, chosen)
    assert found.verdict == "overfitting"
    assert found.epoch == pytest.approx(15 + tried, abs=1)  # the row of metrics.csv
    assert f"epoch {found.epoch - tried}." in found.text


def test_weights_of_a_solved_head_are_no_epoch():
    head = Stage(epochs=3, part="head", optimizer=Logistic())
    chosen = PLAIN.model_copy(update={"stages": (head, *PLAIN.stages)})
    trained = curve(falling, lambda epoch: 2.0 - 0.03 * epoch, stage=2)
    history = [*curve(falling, falling, epochs=3), *({**row, "epoch": row["epoch"] + 3} for row in trained)]
    images = {"training": counts(45_000, 0.1), "validation": counts(5000, 0.1)}
    at_head, at_epoch = (diagnose(history, chosen, **images, blocks=3, kept_epoch=kept) for kept in (2, 20))
    assert at_head.verdict == at_epoch.verdict == "improving"
    assert "solved head" in at_head.text and "17 of 40" in at_epoch.text


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


@pytest.mark.parametrize("seed", range(20))
def test_of_memorised_noise_the_learning_rate_is_no_suspect(seed):
    """200 images of random labels in two classes: the training images are memorised, and validation is at chance."""
    history = curve(falling, lambda epoch: 0.7 + 0.1 * epoch, 0.9, 0.5, noise=0.5, epochs=6, seed=seed)
    found = diagnose(history, PLAIN, training=LabelCounts(160, 80), validation=LabelCounts(20, 10), blocks=3)
    assert found.verdict not in ("unstable", "not-learning")
    assert not any("optimizer" in setting or "lr" in setting for setting in found.settings)


@pytest.mark.parametrize("images", [20, 200])
def test_a_jumping_curve_of_what_was_learned_is_unstable_on_few_images(images):
    history = curve(falling, lambda epoch: 1.0, 0.9, 0.85, noise=0.6, epochs=12)
    validation = LabelCounts(images, images // 2)
    found = diagnose(history, PLAIN, training=LabelCounts(8 * images, 4 * images), validation=validation, blocks=3)
    assert found.verdict == "unstable" and found.settings


def test_a_jumping_curve_is_unstable():
    found = judge(curve(falling, lambda epoch: 1.0, noise=0.3))
    assert found.verdict == "unstable"
    assert "stages.0.schedule=one-cycle" in found.settings


def test_too_little_is_not_judged():
    assert judge(curve(falling, falling, epochs=4)).verdict == "unjudged"
    unmeasured = [{**row, "val_loss": None, "val_accuracy": None} for row in curve(falling, falling)]
    found = diagnose(unmeasured, PLAIN, training=counts(40, 0.5), validation=None, blocks=3)
    assert found.verdict == "unjudged"


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
    found = solved(rows, 500, blocks)
    assert (found.recipe, found.settings, found.epoch) == (next_recipe, (), 6)


@pytest.mark.parametrize(
    ("stage", "advised"),
    [
        ({"epochs": 11}, ("stages.0.optimizer.weakest=0.001",)),
        ({"epochs": "auto"}, ()),
        (
            {"epochs": "auto", "optimizer": {"name": "logistic", "weakest": 10**-1.5}},
            ("stages.0.optimizer.weakest=0.000316228",),
        ),
    ],
)
def test_a_wider_range_of_strengths_is_advised_only_where_the_recipe_ends_it(stage, advised):
    settings = {f"stages.0.{key}": value for key, value in stage.items()}
    chosen = overrides.override(recipe("features"), settings)
    training, validation = counts(4500, 0.1), LabelCounts(9, 1)
    rows = curve(falling, falling, 0.99, 0.9, epochs=11)
    found = diagnose(rows, chosen, training=training, validation=validation, blocks=8)
    assert found.settings == advised


def solved(rows, images, blocks, **more):
    training, validation = counts(4500, 0.1), LabelCounts(images, math.ceil(images / 10))
    return diagnose(rows, recipe("features"), training=training, validation=validation, blocks=blocks, **more)


@pytest.mark.parametrize("name", ["lecture-dropout", "features"])
@pytest.mark.parametrize(("images", "commonest"), [(4, 2), (20, 10), (100, 99), (1, 1), (3, 3)])
def test_a_perfect_classifier_is_never_said_not_to_have_learned(name, images, commonest):
    rows = curve(falling, falling, 1.0, 1.0, epochs=11)
    training = LabelCounts(10 * images, 10 * commonest)
    found = diagnose(rows, recipe(name), training=training, validation=LabelCounts(images, commonest), blocks=8)
    decided = images == 20
    assert (found.verdict, found.settings, found.recipe) == ("all-correct" if decided else "undecided", (), None)


@pytest.mark.parametrize(("keep", "choices"), [("best", 12), ("last", 1)])
def test_the_limit_of_a_perfect_epoch_counts_the_epochs_that_it_was_chosen_from(keep, choices):
    """40 images that choose the best of 12 epochs: each has (0.05 / 12) ** (1 / 40) with 95 % / 12 to miss it."""
    rows = curve(falling, falling, 1.0, 1.0, epochs=12)
    chosen = PLAIN.model_copy(update={"keep": keep})
    found = diagnose(rows, chosen, training=LabelCounts(80, 40), validation=LabelCounts(40, 20), blocks=3)
    lowest = (0.05 / choices) ** (1 / 40)
    assert choices * stats.binom.sf(39, 40, lowest) == pytest.approx(0.05)
    assert f"above {math.floor(1000 * lowest) / 1000:.3f} " in found.text


def test_classes_of_1000_and_3_images_are_told_apart_or_cannot_be():
    always_common = curve(falling, falling, 0.997, 0.99)
    training, validation = LabelCounts(802, 800), LabelCounts(101, 100)
    found = diagnose(always_common, PLAIN, training=training, validation=validation, blocks=3)
    assert (found.verdict, found.settings) == ("undecided", ())
    balanced = LabelCounts(1000, 950, association=association([[900, 50], [2, 48]]))
    below_the_share = curve(falling, falling, 0.94, 0.9)
    found = diagnose(below_the_share, PLAIN, training=LabelCounts(9000, 8550), validation=balanced, blocks=3)
    assert found.verdict not in ("not-learning", "undecided")


def test_association_is_fishers_exact_test():
    for table in ([[8, 2], [1, 5]], [[3, 0], [0, 1]], [[100, 0], [1, 0]], [[5, 1, 2], [1, 3, 0], [0, 2, 2]]):
        counted = np.array(table)
        common = counted.sum(axis=1).argmax()
        rest = np.arange(len(counted)) != common
        folded = [
            [counted[common, common], counted[common, rest].sum()],
            [counted[rest, common].sum(), counted[np.ix_(rest, rest)].sum()],
        ]
        assert association(table) == pytest.approx(stats.fisher_exact(folded, alternative="greater").pvalue)


def test_training_accuracy_is_judged_by_the_number_of_training_images():
    """Half of 4 images says nothing; half of 400 says that nothing was learned."""
    at_chance = curve(falling, falling, 0.5, 0.5)
    few = diagnose(at_chance, PLAIN, training=LabelCounts(8, 4), validation=LabelCounts(400, 200), blocks=3)
    many = diagnose(at_chance, PLAIN, training=LabelCounts(400, 200), validation=LabelCounts(4, 2), blocks=3)
    assert (few.verdict, many.verdict) == ("undecided", "not-learning")
    learned = curve(falling, falling, 0.9, 0.5)
    found = diagnose(learned, PLAIN, training=LabelCounts(400, 200), validation=LabelCounts(4, 2), blocks=3)
    assert found.verdict == "undecided"
    assert found.text.startswith("4 validation images")


@pytest.mark.parametrize(
    ("rarest", "says"), [(None, "--folds 5"), (40, "--folds 5"), (3, "--folds 3"), (1, "More images")]
)
def test_folds_are_proposed_only_where_every_class_has_as_many_images(rarest, says):
    learned = curve(falling, falling, 0.9, 0.5)
    training = LabelCounts(400, 200, rarest=rarest)
    found = diagnose(learned, PLAIN, training=training, validation=LabelCounts(4, 2), blocks=3)
    assert says in found.text


@pytest.mark.parametrize(("commonest", "advised"), [(1, ()), (2, ("split.validation=0.1",))])
def test_validation_is_proposed_only_where_it_can_be_drawn(commonest, advised):
    rows = [row | {"val_loss": None, "val_accuracy": None} for row in curve(falling, falling)]
    none = PLAIN.model_copy(update={"split": PLAIN.split.model_copy(update={"validation": 0})})
    found = diagnose(rows, none, training=LabelCounts(2 * commonest, commonest), validation=None, blocks=3)
    assert (found.verdict, found.settings) == ("unjudged", advised)


def test_more_epochs_only_where_the_last_one_was_the_best():
    for rows in HISTORIES.values():
        found = diagnose(
            rows, PLAIN, training=counts(45_000, 0.1), validation=counts(5000, 0.1), blocks=3, kept_epoch=9
        )
        assert not any(".epochs=" in setting for setting in found.settings)


def test_validation_images_are_asked_for_only_where_the_recipe_has_none():
    rows = [{**row, "val_loss": None, "val_accuracy": None} for row in curve(falling, falling)]
    for fraction, advised in ((0.1, ()), (0.0, ("split.validation=0.1",))):
        chosen = PLAIN.model_copy(update={"split": PLAIN.split.model_copy(update={"validation": fraction})})
        assert diagnose(rows, chosen, training=counts(8, 0.5), validation=None, blocks=3).settings == advised


NAMES = ["lecture-dropout", "simple-cnn", "deep-cnn", "digits", "photographs", "features", "last-block", "finetune"]
SHARES = st.floats(0, 1)
LOSSES = st.floats(0, 20)


@st.composite
def runs(draw):
    """A recipe and a history of its last stage, with accuracies that are shares of whole images."""
    chosen = recipe(draw(st.sampled_from(NAMES)))
    keep, weight_decay = draw(st.sampled_from(["best", "last"])), draw(st.sampled_from([0.0, 1e-2, 0.3]))
    stages = chosen.stages
    if not isinstance(stages[-1].optimizer, Logistic):
        last = {"weight_decay": weight_decay, "lr": draw(st.sampled_from([1e-7, 1e-3, 10.0]))}
        stages = (*stages[:-1], stages[-1].model_copy(update=last))
    chosen = chosen.model_copy(update={"keep": keep, "stages": stages})
    images, training = draw(st.integers(1, 3000)), draw(st.integers(1, 60_000))
    epochs = draw(st.integers(1, 12))
    accuracies = st.one_of(st.just(1.0), SHARES)
    base, trained = draw(accuracies), draw(accuracies)
    slope, noise = draw(st.floats(-0.5, 0.5)), draw(st.sampled_from([0.0, 0.01, 0.5]))
    start, random = draw(LOSSES), np.random.default_rng(draw(st.integers(0, 99)))
    rows = [
        {
            "epoch": epoch,
            "stage": len(chosen.stages),
            "l2_strength": 10 ** (4 - epoch / 2),
            "train_loss": max(0.0, start * 0.9**epoch),
            "train_accuracy": round(trained * training) / training,
            "val_loss": max(0.0, start + slope * epoch + noise * random.standard_normal()),
            "val_accuracy": round(base * images) / images,
        }
        for epoch in range(1, epochs + 1)
    ]
    common = draw(st.floats(0.1, 1))
    counted = [LabelCounts(number, max(1, round(common * number))) for number in (training, images)]
    return chosen, rows, counted, draw(st.integers(1, epochs))


@given(runs())
@settings(max_examples=400, deadline=None)
def test_no_verdict_contradicts_its_numbers(run):
    chosen, rows, (training, validation), kept = run
    found = diagnose(rows, chosen, training=training, validation=validation, blocks=8, kept_epoch=kept)
    train, val = rows[-1]["train_accuracy"], rows[-1]["val_accuracy"]
    losses = [row["val_loss"] for row in rows]
    if val == 1:
        assert found.verdict in ("all-correct", "undecided")
        assert not found.settings
        assert not found.recipe
    if found.verdict == "not-learning":
        assert train < (1 + training.share) / 2
        assert not training.exceeded_by(train)
    if found.verdict == "overfitting":
        assert max(losses) > min(losses)
        assert validation.images >= FEWEST_IMAGES
    if found.verdict in ("memorising", "underfitting", "agreeing") and val < NEARLY_ALL:
        low, high = gap_interval(train, training.images, val, validation.images)
        assert {"memorising": low > 0, "underfitting": high < 0, "agreeing": high - low < 0.2}[found.verdict]
    if kept != len(rows):
        assert not any(".epochs=" in setting for setting in found.settings)
    if found.settings:
        assert overrides.override(chosen, found.settings) != chosen
