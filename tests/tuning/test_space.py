"""Search spaces: keys and ranges as a user types them, checked before anything is computed."""

from pathlib import Path

import pytest

from loupe.config import overrides
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import open_dataset
from loupe.errors import ConfigError
from loupe.models.at_hand import WeightsAtHand
from loupe.recipes import catalog
from loupe.tuning import recipes, space
from loupe.tuning.recipes import TunedRecipe
from loupe.tuning.request import TuneRequest, seconds_in
from loupe.tuning.rungs import count_rungs, share, shortened
from loupe.tuning.space import parse, to_settings
from loupe.tuning.spaces import SPACES, default_space

SMALL = catalog.recipe("small-images")
INPUT = {
    "size_px": 28,
    "load_px": 28,
    "resize": "crop",
    "interpolation": "bilinear",
    "normalise": "channels",
    "pixel_definition": 2,
}


@pytest.mark.parametrize(
    ("text", "ends", "whole", "log"),
    [
        ("stages.0.lr=1e-4..1e-2:log", (1e-4, 1e-2), False, True),
        ("stages.0.lr=0.001..0.1", (0.001, 0.1), False, False),
        ("stages.0.epochs=4..20", (4, 20), True, False),
        ("stages.0.weight_decay=0..1", (0, 1), False, False),  # the recipe's value is no whole number
        ("stages.0.clip_norm=0.5..2.5", (0.5, 2.5), False, False),
        ("stages.0.augment.crop_padding_px=1..8:log", (1, 8), True, True),
    ],
)
def test_a_range_has_the_ends_and_the_scale_that_were_given(text, ends, whole, log):
    [key] = parse([text], SMALL)
    assert ((key.low, key.high), key.is_whole, key.is_log) == (ends, whole, log)
    assert parse([key.text], SMALL) == (key,)


def test_a_list_is_yaml_between_commas_outside_brackets():
    [key] = parse(["stages.0.augment.random_resized_crop=null,[0.2,1],[0.4, 1.0]"], SMALL)
    assert key.choices == ("null", "[0.2,1]", "[0.4, 1.0]")
    assert key.default_value == "null"
    crops = overrides.override(SMALL, to_settings({key.key: "[0.4, 1.0]"}, SMALL)).stages[0].augment
    assert crops.random_resized_crop == (0.4, 1.0)


def test_a_star_stands_for_every_stage_that_trains_in_steps():
    assert space.stage_keys("stages.*.lr", catalog.recipe("fast")) == ["stages.0.lr", "stages.1.lr"]
    assert space.stage_keys("stages.*.lr", catalog.recipe("last-block")) == ["stages.1.lr"]
    [key] = parse(["stages.*.augment.resolution=0.5..1"], catalog.recipe("fast"))
    assert key.default is None and key.default_value is None  # the stages differ in it


def test_numbers_have_three_digits_and_stay_inside_the_range():
    [key] = parse(["stages.0.lr=0.0012345..0.0123456:log"], SMALL)
    assert key.used(0.00234567) == 0.00235
    assert key.used(0.0012345) == 0.0012345 and key.used(0.0123456) == 0.0123


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stages.0.lrr=1e-4..1e-2", "lr"),
        ("stages.3.lr=1e-4..1e-2", "0 to 0"),
        ("stages.0.lr.x=1..2", "single value"),
        ("stages.0.lr=1e-2..1e-4", "empty"),
        ("stages.0.lr=0..1:log", "above 0"),
        ("stages.0.lr=a..b", "'a'"),
        ("stages.0.batch_size=16", "at least two"),
        ("stages.0.batch_size=16,16", "at least two"),
        ("stages.0.batch_size", "KEY=LOW..HIGH"),
        ("seed=1..9", "seed"),
        ("split.validation=0.1,0.2", "split"),
        ("monitor=val_loss,val_accuracy", "monitor"),
    ],
)
def test_a_wrong_search_is_refused_with_what_is_wrong(text, named):
    with pytest.raises(ConfigError) as refused:
        parse([text], SMALL)
    assert named in str(refused.value) and "--set" not in str(refused.value).replace("stays the same: --set", "")


def test_a_key_is_named_once_also_under_a_star():
    with pytest.raises(ConfigError, match=r"stages\.0\.lr"):
        parse(["stages.*.lr=1e-4..1e-2", "stages.0.lr=1e-4..1e-2"], SMALL)


def test_a_key_of_steps_has_no_place_in_a_solved_head():
    with pytest.raises(ConfigError, match="features"):
        parse(["stages.*.lr=1e-4..1e-2"], catalog.recipe("features"))


@pytest.mark.parametrize("name", catalog.GENERAL)
def test_each_recipe_for_own_images_has_a_space_of_valid_values(name):
    recipe = catalog.recipe(name)
    keys = parse(default_space(recipe, ["mobilenetv3_small_100"]), recipe)
    assert set(SPACES) == set(catalog.GENERAL) and keys
    for key in keys:
        for value in key.ends:
            overrides.override(recipe, to_settings({key.key: value}, recipe))
    ranges = [key for key in keys if not key.choices]
    assert all(key.default_value is not None for key in ranges if key.default is not None), "its own value is inside"


@pytest.mark.slow
def test_a_solved_head_is_tried_on_every_backbone_at_hand_unless_one_was_asked_for(monkeypatch):
    at_hand = [WeightsAtHand("mobilenetv3_small_100", "timm", 1, Path("weights"))]
    monkeypatch.setattr(recipes, "weights_at_hand", lambda: at_hand)
    monkeypatch.setattr(recipes, "check_weights", lambda _network: None)
    dataset = open_dataset("digits")
    for model, tried in ((None, True), ("tf_efficientnet_lite0", False)):
        request = TuneRequest("features", model, None, (), (), trials=2, time_limit_seconds=None, confirm=0, seed=0)
        keys = [key.key for key in TunedRecipe.of(request, dataset).space(())]
        assert ("model.backbone" in keys) == tried


def test_a_recipe_without_a_space_says_so():
    with pytest.raises(ConfigError, match="simple-cnn"):
        default_space(catalog.recipe("simple-cnn"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("1h30m", 5400), ("1h 30min", 5400), ("45", 45)]
)
def test_times_are_read(text, seconds):
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "20 x", "1 2", "-5m"])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigError):
        seconds_in(text)


def test_a_request_is_checked():
    request = TuneRequest("digits", None, None, (), (), 30, None, 3, 0)
    request.check()
    for wrong in ({"trials": 1}, {"confirm": -1}, {"time_limit_seconds": 0.0}, {"settings": ("seed=3",)}):
        with pytest.raises(ConfigError):
            TuneRequest(**{**request.__dict__, **wrong}).check()


def test_a_rung_is_a_whole_schedule_in_fewer_epochs():
    recipe = ResolvedRecipe.of(
        overrides.override(
            SMALL,
            [
                "stages.0.epochs=18",
                "stages.0.schedule={name: step, every_epochs: 6, warmup_epochs: 3}",
                "stages.0.patience_epochs=6",
            ],
        ),
        INPUT,
    )
    assert count_rungs(recipe) == 3 and [share(rung, 3) for rung in range(3)] == pytest.approx([1 / 9, 1 / 3, 1])
    stage = shortened(recipe, share(1, 3)).stages[0]
    assert (stage.epochs, stage.schedule.every_epochs, stage.schedule.warmup_epochs, stage.patience_epochs) == (
        6,
        2,
        1,
        2,
    )
    assert shortened(recipe, 1.0) == recipe


def test_a_solved_head_has_one_rung_and_stays_whole():
    pixels = INPUT | {"normalise": "given", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    features = ResolvedRecipe.of(catalog.recipe("features"), pixels)
    assert count_rungs(features) == 1
    both = ResolvedRecipe.of(catalog.recipe("last-block"), pixels)
    short = shortened(both, share(0, count_rungs(both)))
    assert short.stages[0] == both.stages[0] and short.stages[1].epochs == 3
