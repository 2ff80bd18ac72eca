"""Recipes of published experiments on other images: the usual split, unless the images are those of the experiment."""

import logging

import numpy as np
import pyarrow as pa
import pytest

import loupe
from loupe.config.overrides import override
from loupe.config.recipe import SplitSpec
from loupe.data.dataset import Dataset
from loupe.data.table import SCHEMA, ImageTable
from loupe.recipes.catalog import recipe
from loupe.recipes.published.other_images import DATA, for_images
from loupe.recipes.resolve import resolve


def table_of(per_split: dict[str | None, int], classes: int) -> ImageTable:
    labels = np.concatenate([np.repeat(np.arange(classes), each) for each in per_split.values()])
    splits = [split for split, each in per_split.items() for _ in range(classes * each)]
    image = [{"bytes": b"", "path": f"{i}.png"} for i in range(len(labels))]
    rows = pa.table({"image": image, "label": labels, "split": splits, "group": [None] * len(labels)}, schema=SCHEMA)
    return ImageTable(rows, tuple(map(str, range(classes))), "x")


CIFAR = table_of({"train": 5000, "test": 1000}, 10)


@pytest.mark.parametrize(
    ("table", "fits"),
    [
        (CIFAR, True),
        (table_of({None: 5000, "test": 1000}, 10), True),
        (table_of({"train": 5000, "test": 1000}, 11), False),
        (table_of({"train": 20, "test": 5}, 10), False),
        (table_of({"train": 5000}, 10), False),
        (CIFAR.select(np.arange(len(CIFAR) - 1)), False),
    ],
)
def test_cifar10_is_recognised_by_its_numbers(table, fits):
    assert DATA["cifar10"].fits(table) == fits
    used = for_images(recipe("simple-cnn"), Dataset(None, table))
    assert used == (recipe("simple-cnn") if fits else recipe("simple-cnn").model_copy(update=OTHER))


OTHER = {"split": SplitSpec(), "experiment": None}


def test_a_named_data_set_is_that_of_the_experiment_and_recipes_for_all_images_stay():
    few = table_of({"train": 20, "test": 5}, 10)
    assert for_images(recipe("deep-cnn"), Dataset("cifar10", few)) == recipe("deep-cnn")
    own = override(recipe("small-images"), ["split.validation=0.3"])
    assert for_images(own, Dataset(None, few)) is own


def test_settings_and_recipes_given_as_values_keep_their_split(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="loupe")
    few = Dataset(None, table_of({None: 20}, 10))
    options = {"model": None, "flags": {}}
    assert resolve("project-cnn", few, **options, extra=()).split == SplitSpec()
    [said] = [text for text in caplog.messages if "the default" in text]
    assert "split.validation=0.1" in said and "10000" in said.replace(",", "") and "50,000" in said
    caplog.clear()
    assert resolve("project-cnn", few, **options, extra=["split.validation=40"]).split == SplitSpec(validation=40)
    assert not [text for text in caplog.messages if "the default" in text]
    value = recipe("project-cnn")
    (tmp_path / "mine.yaml").write_text(value.to_yaml())
    for given in (value, tmp_path / "mine.yaml"):
        resolved = resolve(given, few, **options, extra=())
        assert (resolved.split, resolved.experiment) == (value.split, "project-cnn")


@pytest.mark.slow
def test_a_published_recipe_trains_on_two_hundred_images(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8), np.arange(200) % 4
    run = loupe.train((x, y), recipe="simple-cnn-quick", epochs=1, output=tmp_path, device="cpu", quiet=True)
    assert run.recipe.split == SplitSpec() and run.results.published is None
    assert (run.results.validation.images, run.results.test.images) == (20, 20)
