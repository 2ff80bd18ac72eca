"""A recipe with what is known of it before any run: its parameter counts, and the figures published for it."""

from typing import Any

from loupe.config.recipe import Preprocessing, Recipe
from loupe.models.build import skeleton
from loupe.models.summary import count_parameters
from loupe.recipes.published.experiments import experiment


def described(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, with `parameters` and `published`; each is None where there is nothing to say.

    Parameters are counted without allocating any, with one output for each class of the published experiment. Those of
    a recipe of no experiment depend on images that are not known yet.
    """
    published = experiment(recipe.experiment) if recipe.experiment else None
    side, parameters = recipe.input.size_px, None
    if published is not None and side is not None:
        classes = tuple(str(number) for number in range(max(2, published.outputs)))
        parameters = count_parameters(skeleton(recipe.model, Preprocessing(size_px=side, load_px=side), classes))
    return {
        **recipe.model_dump(mode="json"),
        "parameters": parameters,
        "published": published.to_json() if published else None,
    }
