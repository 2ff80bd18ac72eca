import numpy as np
import pytest
import yaml

from loupe.config import overrides
from loupe.config.network import BackboneSpec
from loupe.config.optimizer import Adam, OneCycle, Sgd
from loupe.config.recipe import AugmentSpec, Preprocessing, Recipe, Stage
from loupe.config.size import Size, size_in
from loupe.data.dataset import open_dataset
from loupe.errors import ConfigError, LoupeError
from loupe.models.catalog import NETWORKS
from loupe.recipes import choice
from loupe.recipes.catalog import RECIPES, recipe
from loupe.recipes.resolve import resolve
from loupe.recipes.validate import check_buildable


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_yaml(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(name).to_yaml(), encoding="utf-8")
    assert overrides.load(path) == recipe(name)
    assert recipe(name).name == name


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("stages.0.lr=3e-4", lambda r: r.stages[0].lr == 3e-4),
        ("stages.0.schedule=one-cycle", lambda r: r.stages[0].schedule == OneCycle()),
        ("stages.0.schedule={name: one-cycle, peak: 0.2}", lambda r: r.stages[0].schedule == OneCycle(peak=0.2)),
        ("stages.0.optimizer=sgd", lambda r: r.stages[0].optimizer == Sgd()),
        ("stages.0.optimizer=adamw", lambda r: r.stages[0].optimizer == Adam(name="adamw")),
        ("stages.0.augment.zoom=[0.8, 1.2]", lambda r: r.stages[0].augment.zoom == (0.8, 1.2)),
        ("stages.0.clip_norm=null", lambda r: r.stages[0].clip_norm is None),
        ("model.blocks.0.dropout=0.5", lambda r: r.model.blocks[0].dropout == 0.5),
        ("input.size_px=16", lambda r: r.input.size_px == 16),
        ("class_weights=balanced", lambda r: r.class_weights == "balanced"),
    ],
)
def test_a_setting_reaches_its_place(setting, read):
    assert read(overrides.override(recipe("deep-cnn"), [setting]))


def test_settings_are_applied_in_order():
    changed = overrides.override(recipe("deep-cnn"), ["stages.0.optimizer=sgd", "stages.0.optimizer.momentum=0.5"])
    assert changed.stages[0].optimizer == Sgd(momentum=0.5)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("stages.0.lrr=1", "Did you mean lr"),
        ("stages.1.lr=1", "entries 0 to 0"),
        ("stags.0.lr=1", "Did you mean stages"),
        ("stages.0.lr.x=1", "single value"),
        ("stages.0.lr=fast", "valid number"),
        ("stages.0.lr=-1", "greater than 0"),
        ("stages.0.lr=.inf", "finite"),
        ("stages.0.lr", "KEY=VALUE"),
        ("stages.0.optimizer=adm", "adm"),
        ("stages.0.optimizer={name: sgd, beta1: 0.9}", "beta1"),
        ("stages.0.augment.zoom=[1.2, 0.8]", "low before high"),
        ("stages.0.label_smoothing=1", "less than 1"),
        ("seed=-1", "greater than or equal to 0"),
        ("stages=[]", "at least one"),
        ("model.blocks.0.norm=batch", "each"),
        ("stages.0.lr={", "not YAML"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(setting, says):
    with pytest.raises(LoupeError) as caught:
        overrides.override(recipe("deep-cnn"), [setting])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value), "one line"


@pytest.mark.parametrize(
    ("model", "resolution", "says"),
    [("deep-cnn", 0.75, "pooling"), ("test_resnet", 0.75, "pooling"), ("fast-cnn", 0.2, "too small")],
)
def test_a_resolution_that_the_network_cannot_take_is_refused(model, resolution, says):
    images = open_dataset((np.zeros((4, 32, 32), np.uint8), np.array([0, 0, 1, 1])))
    extra = {"stages.0.augment.resolution": resolution}
    chosen = resolve("small-images", images, model="fast-cnn", flags={}, extra=extra)
    spec = NETWORKS[model]() if model in NETWORKS else BackboneSpec(backbone=model, weights="none")
    with pytest.raises(ConfigError, match=r"augment\.resolution") as told:
        check_buildable(chosen.model_copy(update={"model": spec}), ("a", "b"))
    assert says in str(told.value)
    check_buildable(resolve("small-images", images, model="fast-cnn", flags={}, extra={}), ("a", "b"))


SOLVED = {"epochs": 3, "part": "head", "optimizer": "logistic"}


def resolved(flags, *stages, extra=()):
    images = open_dataset((np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 1, 1])))
    given = overrides.override(recipe("digits"), {"stages": list(stages)})
    return resolve(given, images, model=None, flags=flags, extra=extra).stages


def test_flags_of_training_in_steps_are_refused_where_every_head_is_solved():
    for flags, words in (
        ({"lr": 0.1}, "^--lr: .*Leave it out"),
        ({"batch_size": 9}, "^--batch-size: .*optimizer=adam"),
        ({"lr": 0.1, "batch_size": 9}, "^--lr and --batch-size: .*Leave them out"),
    ):
        with pytest.raises(LoupeError, match=words):
            resolved(flags, SOLVED)
        with pytest.raises(LoupeError, match=words):
            resolved(flags, SOLVED | {"optimizer": "adam"}, extra=["stages.0.optimizer=logistic"])
    assert resolved({"epochs": 5}, SOLVED)[0].epochs == 5, "so many penalties"


def test_flags_of_training_in_steps_are_for_the_stages_that_train_in_steps():
    solved, tuned = resolved({"lr": 0.1, "batch_size": 9}, SOLVED, {"epochs": 1, "part": "last-block"})
    assert (solved.lr, solved.batch_size) == (Stage(epochs=1).lr, Stage(epochs=1).batch_size)
    assert (tuned.lr, tuned.batch_size) == (0.1, 9)
    [changed] = resolved({"lr": 0.1, "batch_size": 9}, SOLVED, extra=["stages.0.optimizer=adam"])
    assert (changed.optimizer, changed.lr, changed.batch_size) == (Adam(), 0.1, 9), "as the refusal says"
    [set_] = resolved({"lr": 0.1}, {"epochs": 1}, extra=["stages.0.lr=0.2"])
    assert set_.lr == 0.2, "--set says more than a flag"


def test_a_broken_file_is_an_error_that_names_it(tmp_path):
    for text in ("", "[1, 2]", "name: [", "name: x\n", "\x00"):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(LoupeError, match=r"bad\.yaml"):
            overrides.load(path)
    with pytest.raises(LoupeError, match=r"missing\.yaml"):
        overrides.load(tmp_path / "missing.yaml")


def test_an_unknown_key_in_a_file_is_refused_with_the_nearest(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(recipe("digits").to_yaml().replace("batch_size", "batchsize"))
    with pytest.raises(LoupeError, match="Did you mean batch_size"):
        overrides.load(path)


def test_a_size_is_a_number_or_height_and_width_and_has_one_written_form():
    wide = overrides.override(recipe("digits"), ["input.size_px=[24,40]", "input.load_px=[28, 46]"])
    assert (wide.input.size_px, wide.input.load_px) == ((24, 40), (28, 46))
    assert overrides.parse(yaml.safe_load(wide.to_yaml()), "x") == wide
    square = overrides.override(recipe("digits"), ["input.size_px=[16,16]"])
    assert square == overrides.override(recipe("digits"), ["input.size_px=16"])
    assert "size_px: 16\n" in square.to_yaml(), "as before rectangles were known"
    for given in (np.int64(9), (9, 9), [np.int64(9), 9]):
        assert Preprocessing(size_px=given, load_px=given).model_dump(mode="json")["size_px"] == 9
    prepared = Preprocessing(size_px=(24, 40), load_px=48)
    assert prepared.size == Size(height_px=24, width_px=40) and prepared.load_size == Size(48, 48)
    assert Preprocessing.model_validate_json(prepared.model_dump_json()) == prepared
    assert (str(prepared.size), str(prepared.load_size)) == ("24 x 40", "48")


@pytest.mark.parametrize(
    "value",
    ["0", "-3", "[24,40,3]", "[24]", "[]", "[0,40]", "[24,-40]", "24.5", "[24.0,40]", "true", "24x40", "{a: 1}"],
)
@pytest.mark.parametrize("key", ["size_px", "load_px"])
def test_what_is_no_size_is_one_error_that_says_the_two_forms(key, value):
    with pytest.raises(ConfigError, match=rf"^--set: input\.{key}: [^;]*\[height, width\][^;]*$"):
        overrides.override(recipe("digits"), [f"input.{key}={value}"])


@pytest.mark.parametrize(
    ("text", "size"),
    [("224", 224), ("224x320", (224, 320)), ("24,40", (24, 40)), ("[24, 40]", (24, 40)), ("32X32", 32)],
)
def test_sizes_in_options(text, size):
    assert size_in(text) == size
    for wrong in ("", "x", "24x", "0", "24x0", "-4", "24.5", "24x40x3", "wide"):
        with pytest.raises(ValueError, match="HEIGHTxWIDTH"):
            size_in(wrong)


def test_recipes_are_frozen_and_checked():
    with pytest.raises(ValueError, match="frozen"):
        recipe("digits").seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="at least size_px"):
        Preprocessing(size_px=32, load_px=16)
    with pytest.raises(ValueError, match="in height and in width"):
        Preprocessing(size_px=(24, 40), load_px=32)
    with pytest.raises(ValueError, match="std"):
        Preprocessing(size_px=8, load_px=8, std=(1, 0, 1))
    assert not AugmentSpec().mixes
    assert isinstance(recipe("digits"), Recipe)


def test_the_choice_goes_by_what_was_named_then_by_size_and_number_of_the_images_and_says_so(monkeypatch):
    def chosen(px, default=None, model=None, weights=None, each=5000, signs=False):
        found, reason = choice.choose(
            default=default,
            model=model,
            weights=weights,
            images_per_class=each,
            typical_px=lambda: px,
            are_signs=lambda: signs,
        )
        assert f"Recipe {found.name}" in reason
        return found.name, reason

    assert chosen(32)[0] == "small-images"
    assert chosen(500, default="digits")[0] == "digits"
    assert chosen(500, default="digits", model="resnet18")[0] == "features"
    assert chosen(32, weights="w.safetensors")[0] == "features"
    assert chosen(500, model="photo-cnn")[0] == "photographs"
    assert chosen(500, model="resnet18", weights="none")[0] == "photographs"
    assert chosen(500, weights="none")[0] == "photographs"
    monkeypatch.setattr(choice, "weights_problem", lambda backbone: None)
    assert chosen(65)[0] == "features"
    assert chosen(32)[0] == "small-images"
    assert chosen(32, each=50)[0] == "features"
    assert "50 images per class" in chosen(32, each=50)[1]
    assert chosen(32, each=50, weights="none")[0] == "small-images"
    assert chosen(32, each=50, signs=True)[0] == "small-images"
    assert "orientation" in chosen(32, each=50, signs=True)[1]
    assert chosen(32, each=49, signs=True)[0] == "features"
    assert chosen(65, each=50, signs=True)[0] == "features"
    assert chosen(15, each=50, signs=True)[0] == "features"
    monkeypatch.setattr(choice, "weights_problem", lambda backbone: "its weights cannot be had")
    assert chosen(65)[0] == "photographs"
    assert chosen(32, each=50)[0] == "small-images"
    assert "65 px" in chosen(65)[1]
    assert "cannot be had" in chosen(65)[1]


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(LoupeError, match="Did you mean deep-cnn"):
        recipe("deepcnn")
