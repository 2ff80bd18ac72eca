"""Recipes that `loupe compare` trains if none is named: the ladder, from the cheapest to the most expensive."""

from loupe.errors import ConfigError, enumerated, sentences
from loupe.models.catalog import NETWORKS
from loupe.recipes.choice import SMALL_PX, weights_problem
from loupe.recipes.transfer import BACKBONE

PRETRAINED = ("features", "features-augment", "last-block", "finetune")


def ladder(
    *, dataset_recipe: str | None, typical_px: int, model: str | None, weights: str | None, trained: str | None = None
) -> tuple[list[str], str]:
    """Choose the recipes to compare.

    Args:
        dataset_recipe: recipe that the data set names; None without.
        typical_px: median of the images' shorter sides.
        model, weights: for the pretrained recipes, as for `loupe.train`; None if not given.
        trained: network of the weights, where these are of a run.

    Returns:
        names of the recipes, and the reason for them as one or more sentences.

    Raises:
        ConfigError: the model is not a pretrained one.
    """
    scratch = dataset_recipe or ("small-images" if typical_px <= SMALL_PX else "photographs")
    from_scratch = [f"{scratch}-plain", scratch]
    scratch_text = (
        f"Candidates trained from scratch: {enumerated(from_scratch)} (the images are typically {typical_px} px)"
    )
    if model in NETWORKS:
        raise ConfigError(
            f"--model {model}: not a pretrained model, which the default recipes need. Give a model of timm, or name "
            "recipes with --recipes."
        )
    if weights == "none":
        return from_scratch, sentences(scratch_text, "No pretrained candidates, because of --weights none")
    problem = None if weights else weights_problem(model or BACKBONE)
    if problem:
        return from_scratch, sentences(scratch_text, "No pretrained candidates:", problem)
    return [*from_scratch, *PRETRAINED], sentences(
        scratch_text, f"Candidates with pretrained {model or trained or BACKBONE}: {enumerated(PRETRAINED)}"
    )
