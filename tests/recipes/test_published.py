"""The published experiments: their networks to the unit, their settings as written, their quick forms within bounds."""

import itertools
import re

import pytest

from loupe.config import overrides
from loupe.config.optimizer import Adam, Logistic, RmsProp
from loupe.config.recipe import AugmentSpec, Preprocessing, Stage
from loupe.models.build import skeleton
from loupe.models.summary import count_parameters
from loupe.recipes.catalog import RECIPES, recipe
from loupe.recipes.description import describe
from loupe.recipes.published.experiments import EXPERIMENTS
from loupe.recipes.published.publication import Published
from loupe.recipes.training_summary import training_summary

FROM_SCRATCH = [name for name, published in EXPERIMENTS.items() if published.weights is None]


def counts(name: str, outputs: int) -> dict[str, int]:
    """On the meta device: no weight is allocated."""
    chosen = recipe(name)
    px = chosen.input.size_px
    model = skeleton(chosen.model, Preprocessing(size_px=px, load_px=px), tuple(map(str, range(outputs))))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    model.learn(chosen.stages[-1].part)
    return count_parameters(model)


def test_the_documents_have_nineteen_experiments():
    assert len(EXPERIMENTS) == 19
    assert len(FROM_SCRATCH) == 9


@pytest.mark.parametrize("name", FROM_SCRATCH)
@pytest.mark.parametrize("form", ["", "-quick"])
def test_the_published_parameter_counts_are_met_to_the_unit(name, form):
    published = EXPERIMENTS[name]
    found = counts(name + form, published.outputs)
    assert (found["total"], found["non_trainable"]) == (published.parameters, published.non_trainable)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in FROM_SCRATCH])
def test_the_counts_with_a_pretrained_network_are_those_published(name):
    """As the last stage trains it: Keras's trainable and non-trainable parameters."""
    published = EXPERIMENTS[name]
    found = counts(name, published.outputs)
    if published.parameters is not None:
        assert (found["total"], found["non_trainable"]) == (published.parameters, published.non_trainable)
    assert recipe(name).experiment == name
    frozen = "frozen" in published.network or "bottleneck" in name
    assert (recipe(name).stages[-1].part == "all") != frozen


def test_a_softmax_over_two_classes_has_the_count_stated_beside_the_sigmoid():
    assert f"{counts('catsdogs-cnn', 2)['total']:,}" in EXPERIMENTS["catsdogs-cnn"].remark


@pytest.mark.parametrize(
    ("total", "layers"),
    [
        ("lecture-cnn", [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), 2048, 128, 64, 10]),
        ("project-cnn", [(3, 32), (32, 32), 1152, 256, 512, 10]),
        ("project-cnn-augment", [(3, 32), 7200, 256, 512, 10]),
    ],
)
def test_the_counts_are_what_the_layers_add_up_to(total, layers):
    """Arithmetic: 9·in·out + out for a 3x3 convolution, in·out + out for a dense layer."""
    convolutions = [pair for pair in layers if isinstance(pair, tuple)]
    dense = [width for width in layers if isinstance(width, int)]
    expected = sum(9 * a * b + b for a, b in convolutions) + sum(a * b + b for a, b in itertools.pairwise(dense))
    assert EXPERIMENTS[total].parameters == expected


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_the_recipe_is_the_one_that_the_document_describes(name):
    published, chosen = EXPERIMENTS[name], recipe(name)
    assert chosen.experiment == name
    assert chosen.epochs == published.epochs
    for stage in chosen.stages:
        if isinstance(stage.optimizer, Adam):
            assert "Adam" in published.training
        else:
            assert isinstance(stage.optimizer, RmsProp)
            assert stage.optimizer.epsilon_in_root
            assert "RMSprop" in published.training
        assert stage.optimizer.epsilon == 1e-7, "Keras's"
        assert stage.lr == 1e-3
        assert (m := re.search(r"batch (\d+)", published.training)) is None or stage.batch_size == int(m[1])
    assert (chosen.keep == "best") == ("best" in published.training)
    given = re.search(r"augmentation|rotation|shifts?|flip", published.pixels)
    assert (chosen.stages[-1].augment != AugmentSpec()) == bool(given)


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_the_quick_form_changes_nothing_but_what_is_free(name):
    published, plain, quick = EXPERIMENTS[name], recipe(name), recipe(f"{name}-quick")
    assert quick.epochs <= published.quick_epochs_most
    assert quick.experiment == name
    for field in ("input", "split", "class_weights", "seed", "precision"):
        assert getattr(quick, field) == getattr(plain, field)
    changed = overrides.differences(plain.model_copy(update={"stages": quick.stages}), quick)
    free = re.compile(r"name|description|monitor|keep|model\.(blocks|hidden)\.\d+\.dropout")
    assert [key for key in changed if not free.fullmatch(key)] == []


@pytest.mark.parametrize(("epochs", "target", "most"), [(125, 15, 31), (100, 12, 25), (50, 6, 12), (10, 1, 5)])
def test_an_eighth_is_the_target_a_quarter_the_bound_and_half_of_ten(epochs, target, most):
    row = Published("x", "cifar10", "", "", "", epochs=epochs)
    assert (row.quick_epochs, row.quick_epochs_most) == (target, most)


def test_two_recipes_differ_where_they_differ():
    plain = recipe("deep-cnn")
    other = overrides.override(plain, ["stages.0.lr=0.5", "model.blocks.1.dropout=0.9", "seed=4"])
    assert overrides.differences(plain, other) == ["model.blocks.1.dropout", "stages.0.lr", "seed"]
    assert overrides.differences(plain, plain) == []
    two = recipe("lecture-augment")
    assert "stages" in overrides.differences(recipe("lecture-batchnorm"), two)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_said_in_a_line(name):
    line = training_summary(recipe(name))
    stage = recipe(name).stages[0]
    unit = "L2 strengths" if isinstance(stage.optimizer, Logistic) else "epochs"
    many = "" if stage.is_open else f"{stage.epochs} "
    assert f"{many}{unit} of " in line and ("until the validation loss has risen" in line) == stage.is_open
    assert "_" not in line
    assert "\n" not in line


def test_the_line_names_what_changes_training():
    augment = AugmentSpec(rotation_degrees=15, zoom=(0.8, 1.2), horizontal_flip=True, crop_padding_px=4)
    stage = Stage(epochs=7, lr=0.01, weight_decay=0.02, label_smoothing=0.1, patience_epochs=3, augment=augment)
    line = training_summary(recipe("deep-cnn").model_copy(update={"stages": (stage,)}))
    for part in (
        "7 epochs of AdamW at 0.01, constant, batch 128",
        "weight decay 0.02, label smoothing 0.1, patience 3",
        "rotation 15 degrees, zoom 0.8 to 1.2, horizontal flip, crop padding 4 px",
        "dropout 0.2, 0.3, 0.4; best epoch kept",
    ):
        assert part in line


def test_a_recipe_is_shown_with_its_counts_and_the_published_figures():
    shown = describe(recipe("deep-cnn-quick"))
    assert shown["parameters"] == {"total": 309_290, "trainable": 308_394, "non_trainable": 896}
    assert shown["published"]["accuracy"] == 0.8485
    assert describe(recipe("catsdogs-cnn"))["parameters"]["total"] == 1_212_578, "a softmax over two classes"
    assert describe(recipe("digits"))["published"] is None
