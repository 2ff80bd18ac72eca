"""Trainings in steps that a search may try, in an order from cheap to expensive that does not depend on a clock."""

from collections.abc import Iterable
from dataclasses import dataclass

from loupe.config.network import BackboneSpec
from loupe.config.recipe import AugmentSpec, Precision, Recipe
from loupe.evaluate.search_results import Kind
from loupe.models.at_hand import WeightsAtHand
from loupe.recipes import catalog
from loupe.recipes.choice import SMALL_PX, TINY_PX
from loupe.search.candidate import Candidate, shared, short, sized, with_backbone
from loupe.search.head_space import sizes_px

EPOCHS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60)  # of a whole annealed schedule
LAYER_DECAY = 0.8
BACKWARD = 3  # arithmetic of a training step, in forward passes


@dataclass(frozen=True)
class Family:
    """Trainings that differ in the number of epochs alone.

    Attributes:
        recipe: with one epoch in each stage that is trained in steps.
        flop: operations of one epoch.
        fixed_flop: operations before the first epoch.
    """

    name: str
    kind: Kind
    title: str
    recipe: Recipe
    flop: float
    fixed_flop: float = 0.0
    backbone: WeightsAtHand | None = None
    size_px: int = 0

    @property
    def network(self) -> str:
        """Name of the network, as that of a candidate."""
        return self.of(1, "auto").network

    def of(self, epochs: int, precision: Precision) -> Candidate:
        """Candidate with a whole schedule of that many epochs."""
        return Candidate(
            name=f"{self.name}-{epochs}ep",
            kind=self.kind,
            title=f"{self.title}, {epochs} {'epoch' if epochs == 1 else 'epochs'}",
            recipe=with_epochs(self.recipe, epochs).model_copy(update={"precision": precision}),
            flop=self.fixed_flop + epochs * self.flop,
            backbone=self.backbone,
            size_px=self.size_px,
            epochs=epochs,
        )


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Recipe with that many epochs in steps; several such stages share them equally, the last one has the rest."""
    numbers = [number for number, stage in enumerate(recipe.stages) if not stage.is_solved]
    each = {number: max(1, epochs // len(numbers)) for number in numbers[:-1]}
    each[numbers[-1]] = max(1, epochs - sum(each.values()))
    stages = [
        stage.model_copy(update={"epochs": each[number]}) if number in each else stage
        for number, stage in enumerate(recipe.stages)
    ]
    if len(numbers) > 1 and epochs < len(numbers):  # the last stage alone, which anneals
        stages = [stage for number, stage in enumerate(stages) if number not in numbers[:-1]]
    return recipe.model_copy(update={"stages": tuple(stages)})


def families(
    best: Candidate | None, flop: float, typical_px: int, train_images: int, base: Recipe, *, flips: bool
) -> tuple[Family, ...]:
    """Families of trainings, in the order in which they are tried: last block, whole network, from scratch.

    The last block is trained at a smaller size too, at which an epoch takes a third of the time or less.

    Args:
        best: best head; its backbone and size are trained further. None without pretrained weights.
        flop: operations of that backbone for one image of its size.
        train_images: number of training images.
        flips: mirror training images.
    """
    found = [_from_scratch(typical_px, train_images, base, flips)]
    if best is not None and best.backbone is not None:
        name, smaller = short(best.backbone), _smaller(best, typical_px)
        blocks: list[tuple[Kind, str, float, int]] = [("last-block", "last block of", 0.3, size) for size in smaller]
        for kind, title, share, size in (*blocks, ("finetune", "all of", float(BACKWARD), best.size_px)):
            pass_flop = flop * (size / best.size_px) ** 2 * train_images
            recipe = sized(with_backbone(catalog.recipe(kind), base, best.backbone), size)
            if kind == "finetune":
                decayed = recipe.stages[-1].model_copy(update={"layer_decay": LAYER_DECAY})
                recipe = recipe.model_copy(update={"stages": (*recipe.stages[:-1], decayed)})
            recipe = _flipped(recipe, flips)
            found.append(
                Family(
                    name=f"{kind}-{name}-{size}px",
                    kind=kind,
                    title=f"{title} {name}, {size} px",
                    recipe=recipe,
                    flop=share * pass_flop,
                    fixed_flop=pass_flop,
                    backbone=best.backbone,
                    size_px=size,
                )
            )
    return in_order(found)


def _smaller(head: Candidate, typical_px: int) -> tuple[int, ...]:
    """Sides of the input of a head, and the next smaller one that is tried with its backbone."""
    assert isinstance(head.recipe.model, BackboneSpec)
    below = [size for size in sizes_px(head.recipe.model, typical_px) if size < head.size_px]
    return (*below[-1:], head.size_px)


def in_order(families: Iterable[Family]) -> tuple[Family, ...]:
    """Families in the order in which they are tried: pretrained networks from cheap to expensive, then the others."""
    return tuple(sorted(families, key=lambda one: (one.kind == "from-scratch", one.fixed_flop + one.flop, one.name)))


def from_scratch(typical_px: int, base: Recipe, *, signs: bool = False) -> Recipe:
    """Recipe from random weights: `fast` for small images, `digits` for those of 8 px, `photographs` for large ones.

    Args:
        signs: mirror images are of other classes, or of none. Large ones are then reduced for `small-images`: on hand
            signs of 100 px, 64 px from scratch reach 96.4 %, heads on features 92.7 % (results/blends.md).
    """
    if typical_px > SMALL_PX and signs:
        return sized(shared(catalog.recipe("small-images"), base), SMALL_PX)
    small = "digits" if typical_px <= 8 else "small-images" if typical_px < TINY_PX else "fast"
    return shared(catalog.recipe("photographs" if typical_px > SMALL_PX else small), base)


def _from_scratch(typical_px: int, train_images: int, base: Recipe, flips: bool) -> Family:
    """Trainings from random weights."""
    recipe, is_reduced = from_scratch(typical_px, base, signs=not flips), typical_px > SMALL_PX and not flips
    flop = {"digits": 1e7, "small-images": 4e8 if is_reduced else 1e8, "fast": 3e8, "photographs": 4e8}[recipe.name]
    return Family(
        name=f"{recipe.name}-from-scratch",
        kind="from-scratch",
        title=f"{recipe.name}, from scratch",
        recipe=_flipped(recipe, flips),
        flop=BACKWARD * flop * train_images,
    )


def _flipped(recipe: Recipe, flips: bool) -> Recipe:
    """Recipe without mirrored training images, unless they help."""
    if flips:
        return recipe
    stages = tuple(
        stage.model_copy(update={"augment": _unflipped(stage.augment)}) if not stage.is_solved else stage
        for stage in recipe.stages
    )
    return recipe.model_copy(update={"stages": stages})


def _unflipped(augment: AugmentSpec) -> AugmentSpec:
    return augment.model_copy(update={"horizontal_flip": False, "vertical_flip": False})
