"""Recipes by name."""

from collections.abc import Callable
from pathlib import Path

from loupe.config import overrides
from loupe.config.recipe import Recipe
from loupe.errors import unknown_name
from loupe.recipes import from_scratch, transfer
from loupe.recipes.published import from_scratch as published
from loupe.recipes.published import quick
from loupe.recipes.published import transfer as published_transfer

Recipes = dict[str, Callable[[], Recipe]]

GENERAL: Recipes = {
    "digits-plain": from_scratch.digits_plain,
    "digits": from_scratch.digits,
    "small-images-plain": from_scratch.small_images_plain,
    "small-images": from_scratch.small_images,
    "fast": from_scratch.fast,
    "photographs-plain": from_scratch.photographs_plain,
    "photographs": from_scratch.photographs,
    "features": transfer.features,
    "features-augment": transfer.features_augment,
    "last-block": transfer.last_block,
    "finetune": transfer.finetune,
}
PUBLISHED: Recipes = {
    "simple-cnn": published.simple_cnn,
    "deep-cnn": published.deep_cnn,
    "lecture-cnn": published.lecture_cnn,
    "lecture-dropout": published.lecture_dropout,
    "lecture-batchnorm": published.lecture_batchnorm,
    "lecture-augment": published.lecture_augment,
    "project-cnn": published.project_cnn,
    "project-cnn-augment": published.project_cnn_augment,
    "catsdogs-cnn": published.catsdogs_cnn,
    "lecture-vgg16": published_transfer.lecture_vgg16,
    "lecture-vgg16-augment": published_transfer.lecture_vgg16_augment,
    "project-vgg16-features": published_transfer.project_vgg16_features,
    "project-vgg16-features-augment": published_transfer.project_vgg16_features_augment,
    "project-vgg16-finetune": published_transfer.project_vgg16_finetune,
    "project-mobilenet-features": published_transfer.project_mobilenet_features,
    "project-mobilenet-features-augment": published_transfer.project_mobilenet_features_augment,
    "project-mobilenet-finetune": published_transfer.project_mobilenet_finetune,
    "catsdogs-vgg16-bottleneck": published_transfer.catsdogs_vgg16_bottleneck,
    "catsdogs-vgg16-finetune": published_transfer.catsdogs_vgg16_finetune,
}
QUICK: Recipes = {
    "simple-cnn-quick": quick.simple_cnn,
    "deep-cnn-quick": quick.deep_cnn,
    "lecture-cnn-quick": quick.lecture_cnn,
    "lecture-dropout-quick": quick.lecture_dropout,
    "lecture-batchnorm-quick": quick.lecture_batchnorm,
    "lecture-augment-quick": quick.lecture_augment,
    "project-cnn-quick": quick.project_cnn,
    "project-cnn-augment-quick": quick.project_cnn_augment,
    "catsdogs-cnn-quick": quick.catsdogs_cnn,
}
GROUPS: dict[str, Recipes] = {
    "For your images": GENERAL,
    "Published experiments": PUBLISHED,
    "Published experiments in fewer epochs": QUICK,
}
RECIPES: Recipes = {**GENERAL, **PUBLISHED, **QUICK}


def recipe(name: str) -> Recipe:
    """Recipe of that name.

    Raises:
        ConfigError: unknown name; the error has the nearest known ones.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()


def named(wanted: str | Path | Recipe) -> Recipe:
    """Recipe by its name or from a YAML file; one that is a value is itself.

    Raises:
        ConfigError: unknown name, or the file is not a recipe.
    """
    if isinstance(wanted, Recipe):
        return wanted
    return overrides.load(Path(wanted)) if Path(wanted).suffix in {".yaml", ".yml"} else recipe(str(wanted))
