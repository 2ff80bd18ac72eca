"""Display of augmented views of one image, as a stage of a recipe trains on them."""

from pathlib import Path
from typing import Any

import numpy as np

from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import AugmentSpec, Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import open_dataset
from loupe.data.pixels.prepare import encoded, pixel_statistics, used_levels
from loupe.data.pixels.store import EncodedStore
from loupe.data.processes import worker_count
from loupe.data.sources.inference_inputs import Pictures, table_of
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.table import ImageTable
from loupe.errors import DataError, counted
from loupe.notebook.data import check_whole
from loupe.notebook.display import Display, display
from loupe.notebook.stages import check_stage, resolved
from loupe.recipes.resolve import Settings
from loupe.recipes.training_summary import augmentation_words
from loupe.report.embed import source_of_pixels
from loupe.report.gallery_selection import augmented_views, evaluation_pixels
from loupe.report.sampling import in_turn

MOST_VIEWS = 200
SAMPLED_IMAGES = 200  # for the mean of the pixels, with which cutout fills
COLUMNS = 6


def preview(
    data: Any,
    *,
    recipe: str | Path | Recipe | None = None,
    image: Pictures | None = None,
    stage: int | None = None,
    views: int = 11,
    seed: int = 0,
    settings: Settings = (),
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
) -> Display:
    """Show one image under the augmentation of a recipe, as `loupe.train` would train on it, epoch by epoch.

    Mixed images (mixup, cutmix) are not shown.

    Args:
        data, recipe, settings, columns, images, follow_links: as for `loupe.train`.
        image: image to show, as for `run.predict`; None for a training image of the data, which the seed draws.
        stage: stage of the recipe, from 1. Default: the last one with an augmentation.
        views: number of views, from 1 to 200; fewer where the stage trains on fewer, as with frozen blocks.
        seed: random seed for the image and for the augmentation.

    Returns:
        Display for a notebook: the image as it is evaluated, and its views.

    Raises:
        ConfigError: the recipe, a setting, or an option is unknown or out of range.
        DataError: the images cannot be used, or `image` is not one image.
    """
    check_whole("views", views, 1, MOST_VIEWS)
    check_whole("seed", seed, 0, 2**63 - 1)
    dataset = open_dataset(data, ReadOptions.of(columns, images, follow_links))
    chosen = resolved(recipe, dataset, model=None, settings=settings)
    number = _last_augmented(chosen) if stage is None else stage
    check_stage(number, chosen)
    if image is None:
        row = _drawn(dataset.table, seed)
        table = dataset.table.select([row])
    else:
        table, row = _one(image, follow_links), 0
    label = table.classes[table.labels[0]] if table.labels[0] >= 0 else None
    chosen = _measured(chosen, dataset.table, chosen.stages[number - 1].augment)
    augmenter = Augmenter(chosen.stages[number - 1].augment, chosen.preprocessing, seed)
    pixels_BHWC = EncodedStore(encoded(table, chosen.preprocessing), worker_count()).read(np.array([0]))
    original = evaluation_pixels(pixels_BHWC, chosen.preprocessing)[0]
    words, cached = augmentation_words(augmenter.spec), chosen.stages[number - 1].views
    most = views if cached == "fresh" else min(views, cached)
    drawn = [*augmented_views(pixels_BHWC, np.array([row]), augmenter, most)] if words else []
    shown = {
        "name": chosen.name,
        "label": label,
        "stage": f"stage {number} of {len(chosen.stages)}" if len(chosen.stages) > 1 else None,
        "words": words,
        "original": source_of_pixels(original),
        "views": [source_of_pixels(view) for view in drawn],
        "cached": None if cached == "fresh" else cached,
        "is_open": augmenter.spec.is_open,
        "mixes": augmenter.spec.mixes,
    }
    text = f"{chosen.name}: {', '.join(words) or 'no augmentation'}; {counted(len(drawn), 'view')} of {table.paths[0]}"
    lines = -(-(1 + len(drawn)) // COLUMNS)
    return display("cell_views.html", shown, text=text, height_px=160 + 175 * lines)


def _last_augmented(recipe: Recipe) -> int:
    numbers = [n for n, stage in enumerate(recipe.stages, 1) if stage.augment != AugmentSpec()]
    return numbers[-1] if numbers else len(recipe.stages)


def _drawn(table: ImageTable, seed: int) -> int:
    """Row of one image that can be trained on."""
    given = [row for row, split in enumerate(table.splits) if split in (None, "train")]
    rows = np.array(given or range(len(table)))
    return int(rows[in_turn(table.labels[rows], table.classes, seed, 1)[0]])


def _one(image: Pictures, follow_links: bool) -> ImageTable:
    table = table_of(image, follow_links=follow_links)
    if len(table) != 1:
        raise DataError(f"image: {counted(len(table), 'image')} given where one is needed. Give one of them.")
    return table


def _measured(recipe: ResolvedRecipe, table: ImageTable, spec: AugmentSpec) -> ResolvedRecipe:
    """Recipe with the levels and the mean of some of the images in place of those of all training images."""
    rows = np.unique(np.linspace(0, len(table) - 1, min(SAMPLED_IMAGES, len(table)), dtype=np.int64))
    if recipe.input.range == "used":
        recipe = recipe.scaled(used_levels(table, rows))
    if recipe.input.wants_statistics and spec.cutout_px:
        store = EncodedStore(encoded(table, recipe.preprocessing), worker_count())
        by_channel = recipe.input.normalise == "channels"
        recipe = recipe.normalised(*pixel_statistics(store, rows, by_channel=by_channel))
    return recipe
