"""Search spaces of the recipes for a user's own images, for a search without `--search`."""

from collections.abc import Sequence

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Recipe
from loupe.errors import ConfigError

RATE = "stages.*.lr={low:.3g}..{high:.3g}:log"
DECAY = "stages.*.weight_decay=1e-3..0.1:log"
SMOOTHING = "stages.*.label_smoothing=0..0.2"
FLIPS = "stages.{stage}.augment.horizontal_flip=false,true"
CROPS = "stages.{stage}.augment.random_resized_crop=[0.2,1],[0.4,1],[0.6,1],[0.8,1]"
BROADER = 5.0  # factor from the rate of a recipe to either end of its range

FROM_SCRATCH = (DECAY, SMOOTHING)
DIGITS = ("stages.0.augment.rotation_degrees=0..20", "stages.0.augment.width_shift=0..0.2")
SMALL = ("stages.0.augment.crop_padding_px=0..6", FLIPS.format(stage=0), "stages.0.augment.cutout_px=0..12")
FAST = ("stages.*.augment.crop_padding_px=0..4", "stages.*.augment.horizontal_flip=false,alternate")
PHOTOGRAPHS = (CROPS.format(stage=0), FLIPS.format(stage=0), "stages.0.augment.rotation_degrees=0..20")
POOLING = "model.pooling=own,average"
VIEWS = ("stages.0.views=1,2,4,8", CROPS.format(stage=0), FLIPS.format(stage=0))
TUNED = (DECAY, SMOOTHING, CROPS.format(stage=1), FLIPS.format(stage=1))

# Without the range of the learning rate, which follows from that of the recipe.
SPACES: dict[str, tuple[str, ...]] = {
    "digits-plain": FROM_SCRATCH,
    "digits": (*FROM_SCRATCH, *DIGITS),
    "small-images-plain": FROM_SCRATCH,
    "small-images": (*FROM_SCRATCH, *SMALL),
    "fast": (*FROM_SCRATCH, *FAST),
    "photographs-plain": FROM_SCRATCH,
    "photographs": (*FROM_SCRATCH, *PHOTOGRAPHS),
    "features": (POOLING,),
    "features-augment": (POOLING, *VIEWS),
    "last-block": TUNED,
    "finetune": (*TUNED, "stages.1.layer_decay=0.6..1"),
}


def default_space(recipe: Recipe, backbones: Sequence[str] = ()) -> tuple[str, ...]:
    """Search space of a recipe as texts of `--search`.

    Args:
        recipe: recipe with its settings; those of the published experiments have no space.
        backbones: pretrained backbones whose weights are at hand, for a solved head, whose penalty is solved for and
            not searched.

    Raises:
        ConfigError: the recipe has none.
    """
    space = SPACES.get(recipe.name)
    if space is None:
        raise ConfigError(
            f"recipe {recipe.name} has no search space of its own. Give one, for example "
            "--search stages.0.lr=1e-4..1e-2:log"
        )
    rates = [stage.lr for stage in recipe.stages if not stage.is_solved]
    rate = [RATE.format(low=min(rates) / BROADER, high=max(rates) * BROADER)] if rates else []
    choice = _backbone(recipe, backbones) if not rates else []
    return (*rate, *choice, *space)


def _backbone(recipe: Recipe, backbones: Sequence[str]) -> list[str]:
    """Choice among the recipe's backbone and others; none without others."""
    assert isinstance(recipe.model, BackboneSpec)
    names = dict.fromkeys((recipe.model.backbone, *backbones))
    return [f"model.backbone={','.join(names)}"] if len(names) > 1 else []
