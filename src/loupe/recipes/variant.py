"""Variants of a recipe: the same with other settings, under a name of its own."""

from pathlib import Path

from loupe.config import overrides
from loupe.config.recipe import Recipe
from loupe.recipes import catalog
from loupe.recipes.resolve import Settings


def recipe(base: str | Path | Recipe, *, name: str | None = None, settings: Settings = ()) -> Recipe:
    """Recipe with other settings, for `loupe.train`, `loupe.compare`, `loupe.preview` and `loupe.layers`.

    It is a value that does not change; its `to_yaml()` is the text of a recipe file.

    Args:
        base: name, YAML file or recipe to begin with.
        name: its name in tables, and in the names of its runs. Default: that of the base.
        settings: values of recipe keys, as a mapping or as KEY=VALUE.

    Raises:
        ConfigError: an unknown recipe or key, or a value that is not allowed.
    """
    changed = overrides.override(catalog.named(base), settings)
    return changed if name is None else overrides.override(changed, {"name": name})
