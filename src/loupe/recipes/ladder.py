"""The ladder that `loupe compare` climbs when no recipe is named: from the cheapest idea to the dearest."""

from loupe.errors import ConfigError
from loupe.models.catalog import NETWORKS
from loupe.recipes.choice import SMALL_PX, without_weights
from loupe.recipes.transfer import BACKBONE

PRETRAINED = ("features", "features-augment", "last-block", "finetune")


def ladder(
    *, dataset_recipe: str | None, typical_px: int, model: str | None, weights: str | None
) -> tuple[list[str], str]:
    """The names of the recipes, and in words why these.

    Args:
        dataset_recipe: the recipe that the data set itself names, if any.
        typical_px: the median of the images' shorter sides.
        model, weights: of the pretrained recipes, as for `loupe.train`; None where nothing was said.
    """
    scratch = dataset_recipe or ("small-images" if typical_px <= SMALL_PX else "photographs")
    from_scratch = [f"{scratch}-plain", scratch]
    kind = f"from scratch ({', '.join(from_scratch)}), as the images are typically {typical_px} px"
    if model in NETWORKS:
        raise ConfigError(f"the ladder starts from a pretrained --model, and {model} is none. Name recipes: --recipes.")
    if weights == "none":
        return from_scratch, f"{kind}; nothing pretrained, as nothing of it is asked for"
    problem = None if weights else without_weights(model or BACKBONE)
    if problem:
        return from_scratch, f"{kind}; nothing pretrained: {problem}"
    return [*from_scratch, *PRETRAINED], f"{kind}; pretrained {model or BACKBONE}: {', '.join(PRETRAINED)}"
