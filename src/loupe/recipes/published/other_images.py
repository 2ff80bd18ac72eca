"""Recipes of published experiments on other images: the usual split, and no published figures beside the result."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loupe.config.recipe import Recipe, SplitSpec
from loupe.data.dataset import Dataset
from loupe.data.table import ImageTable
from loupe.errors import counted
from loupe.recipes.published.experiments import experiment


@dataclass(frozen=True)
class Structure:
    """Structure by which a data set is recognised: the number of classes, and the images of each class by split."""

    classes: int
    images_each: Mapping[str, int]

    def __str__(self) -> str:
        sizes = [f"{self.classes * each:,} {split}" for split, each in self.images_each.items()]
        return f"{' and '.join(sizes)} images in {counted(self.classes, 'class', 'classes')}"

    def fits(self, table: ImageTable) -> bool:
        """True if each class of the table has these images in these splits; images without a split are in train."""
        if len(table.classes) != self.classes:
            return False
        split_N = np.array([split or "train" for split in table.splits], dtype=object)
        return all(
            np.all(np.bincount(table.labels[(split_N == split) & (table.labels >= 0)], minlength=self.classes) == each)
            for split, each in self.images_each.items()
        )


DATA = {
    "cifar10": Structure(10, {"train": 5000, "test": 1000}),
    "cats_vs_dogs": Structure(2, {"train": 1000, "val": 400}),
}


def for_images(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe as it is, or, where it has an experiment of other images, with the usual split and no experiment.

    The sizes of a published split belong to its data set: 5,000 validation images of 50,000 are none of 200.
    """
    if recipe.experiment is None:
        return recipe
    wanted = experiment(recipe.experiment).dataset
    if dataset.source == wanted or DATA[wanted].fits(dataset.table):
        return recipe
    return recipe.model_copy(update={"split": SplitSpec(), "experiment": None})


def reason(published: Recipe, used: Recipe) -> str | None:
    """Sentences on the settings of the split that differ from those of the experiment; None if none does.

    Args:
        published: recipe of the experiment.
        used: the same recipe for these images.
    """
    if published.experiment is None:
        return None
    usual, own = dict(SplitSpec()), dict(published.split)
    changed = {key: value for key, value in dict(used.split).items() if value == usual[key] != own[key]}
    if not changed:
        return None
    wanted = experiment(published.experiment).dataset
    now = ", ".join(f"split.{key}={value}" for key, value in changed.items())
    before = ", ".join(f"{own[key]:,g}" if isinstance(own[key], float) else str(own[key]) for key in changed)
    return (
        f"Recipe {used.name}: {now}, the default. These are not the images of its experiment, {wanted} "
        f"({DATA[wanted]}), for which it has {before}. To change that: --set split.{next(iter(changed))}=…"
    )
