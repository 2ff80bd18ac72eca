"""Check that a recipe has the validation images that it needs, with a remedy that suits these images."""

from collections.abc import Callable, Iterator

from loupe.config.optimizer import Plateau
from loupe.config.recipe import Recipe, SplitSpec, Stage
from loupe.data.pixels.prepare import Images
from loupe.data.splits.folds import as_many_as_fit
from loupe.data.splits.split import Indices, Split
from loupe.errors import ConfigError, DataError, LoupeError, enumerated
from loupe.log import logger

VALIDATION = SplitSpec().validation


def check_split(recipe: Recipe, split: Split, redraw: Callable[[SplitSpec], Split]) -> None:
    """Check that there are validation images if the recipe needs them.

    Args:
        recipe: recipe of the run.
        split: split of the images.
        redraw: function that splits the images with other settings.

    Raises:
        ConfigError: there are none; with the settings that mend it on these images.
    """
    if len(split.val):
        return
    needs = {need: change for number, stage in enumerate(recipe.stages) for need, change in _needs(number, stage)}
    if not needs:
        only = "the L2 strength of out-of-fold predictions" if recipe.stages[-1].is_open else "its only L2 strength"
        kept = only if recipe.stages[-1].is_solved else "the last epoch"
        logger.info(f"there are no validation images: the weights of {kept} are kept.")
        return
    drawn = recipe.split.model_copy(update={"validation": VALIDATION})
    remedy = (
        f"Give --set split.validation={VALIDATION:g}"
        if not recipe.split.validation and _draws(redraw, drawn)
        else f"Add validation images, or do without: {' '.join(f'--set {change}' for change in needs.values())}"
    )
    said = enumerated(list(needs))
    raise ConfigError(f"there are no validation images, and these need them: {said}. {remedy}")


def strength_folds(recipe: Recipe, images: Images, split: Split) -> Indices | None:
    """Fold of each training image, whose out-of-fold predictions select an L2 strength where validation images do not.

    There are 5 folds, or fewer where a class has fewer images, with copies and groups counted once.

    Returns:
        Numbers from 0; None with validation images, and where no series of strengths goes on by itself.

    Raises:
        ConfigError: a class has one training image.
    """
    number = next((number for number, stage in enumerate(recipe.stages) if stage.is_open), None)
    if len(split.val) or number is None:
        return None
    try:
        group = recipe.split.group
        return as_many_as_fit(images.table, images.content, split.train, seed=recipe.split_seed, group=group)
    except DataError as error:
        raise ConfigError(
            f"there are no validation images, and out-of-fold predictions cannot select an L2 strength: {error} To "
            f"solve for one strength only: --set stages.{number}.epochs=1"
        ) from None


def _needs(number: int, stage: Stage) -> Iterator[tuple[str, str]]:
    """Parts of a stage that need validation images, each with the setting that does without."""
    of_stage = f" of stage {number + 1}" if number else ""
    if stage.patience_epochs:
        yield f"early stopping{of_stage}", f"stages.{number}.patience_epochs=null"
    if isinstance(stage.schedule, Plateau):
        yield f"the plateau schedule{of_stage}", f"stages.{number}.schedule=constant"
    if stage.is_solved and stage.epochs != "auto" and stage.epochs > 1:
        yield f"the choice of an L2 strength{of_stage}", f"stages.{number}.epochs=1"


def _draws(redraw: Callable[[SplitSpec], Split], spec: SplitSpec) -> bool:
    """True if validation images can be drawn with these settings."""
    try:
        return bool(len(redraw(spec).val))
    except LoupeError:
        return False
