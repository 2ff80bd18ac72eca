"""Description of a recipe as plain data: keys, parameter counts, published figures."""

from typing import Any

from loupe.config.recipe import Preprocessing, Recipe
from loupe.models.build import skeleton
from loupe.models.summary import count_parameters
from loupe.recipes.published.experiments import experiment


def describe(recipe: Recipe) -> dict[str, Any]:
    """Recipe as plain data, with `parameters` and `published`; both are None for a recipe of no published experiment.

    Parameters are counted without allocating any, with one output for each class of the experiment. Those of other
    recipes depend on images that are not known yet.
    """
    published = experiment(recipe.experiment) if recipe.experiment else None
    size_px, parameters = recipe.input.size_px, None
    if published is not None and size_px is not None:
        classes = tuple(str(number) for number in range(max(2, published.outputs)))
        parameters = count_parameters(skeleton(recipe.model, Preprocessing(size_px=size_px, load_px=size_px), classes))
    return {
        **recipe.model_dump(mode="json"),
        "parameters": parameters,
        "published": published.to_json() if published else None,
    }
