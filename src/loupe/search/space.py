"""Candidates of a search: each a recipe, in an order from cheap to expensive that does not depend on a clock."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loupe.config.network import BackboneSpec, BlendMember, BlendSpec
from loupe.config.recipe import AugmentSpec, Precision, Recipe
from loupe.config.size import Size
from loupe.evaluate.search_results import Kind
from loupe.models.at_hand import WeightsAtHand
from loupe.models.pretrained import native_preprocessing
from loupe.recipes import catalog
from loupe.recipes.choice import SMALL_PX, TINY_PX

BASE = "features"  # recipe whose settings those of `base` are, but for what was given
STEP_PX = 32  # by which backbones reduce their input
SMALL_SIZES_PX = (64, 96)  # at which small images are enlarged, besides the backbone's own size
SHARE_OF_SIZE = 0.57  # of the backbone's own side, for the smaller of two sizes: a third of the arithmetic
EPOCHS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60)  # of a whole annealed schedule
PARTS = (20_000, 10_000, 5_000, 2_000, 1_000, 500)  # training images, where the time is short for all of them
LAYER_DECAY = 0.8
BACKWARD = 3  # arithmetic of a training step, in forward passes


@dataclass(frozen=True)
class Candidate:
    """Recipe that a search may train.

    Attributes:
        name: unique in the search.
        recipe: not yet resolved for the images.
        flop: floating point operations of computing its features or training it.
        backbone: pretrained weights; None for a network that starts at random.
        size_px: side of its input; 0 for that of the recipe.
        epochs: epochs in steps; 0 for a solved head.
        training_images: size of the part of the training images to learn from; None for all.
        members: heads on each of the backbones whose features are together under one head; empty for all others.
    """

    name: str
    kind: Kind
    title: str
    recipe: Recipe
    flop: float
    backbone: WeightsAtHand | None = None
    size_px: int = 0
    epochs: int = 0
    training_images: int | None = None
    members: "tuple[Candidate, ...]" = ()

    def learning_from(self, images: int | None) -> "Candidate":
        """The same on a part of the training images; None for all."""
        if images is None:
            return self
        split = self.recipe.split.model_copy(update={"train": images})
        return replace(
            self,
            name=f"{self.name}-{images}images",
            title=f"{self.title}, {images:,} training images",
            recipe=self.recipe.model_copy(update={"split": split}),
            training_images=images,
        )

    @property
    def pretrained_parameters(self) -> int:
        """Parameters of its pretrained backbones."""
        own = 0 if self.backbone is None else self.backbone.parameters
        return own + sum(one.pretrained_parameters for one in self.members)

    @property
    def network(self) -> str:
        """Name of the network, with its weights where these are a file."""
        network = self.recipe.model
        return network.name if network.weights in ("timm", "none") else f"{network.name} {network.weights}"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by name, as search.json has them."""
        network = self.recipe.model
        if not self.recipe.stages:  # a blend
            return {"recipe": self.recipe.name, "network": network.name}
        stage = self.recipe.stages[-1]
        return {
            "recipe": self.recipe.name,
            "network": network.name,
            "weights": network.weights,
            "size_px": self.size_px or None,
            "epochs": self.epochs or None,
            "training_images": self.training_images,
            "part": stage.part,
            "layer_decay": stage.layer_decay,
            "precision": self.recipe.precision,
            "augment": stage.augment.model_dump(mode="json", exclude_defaults=True),
        }


def sizes_px(network: BackboneSpec, typical_px: int) -> tuple[int, ...]:
    """Sides of the input to try with a backbone, ascending: its own, and smaller ones that take less time."""
    own = _own_px(network)
    if typical_px <= SMALL_PX:
        return tuple(sorted({*(size for size in SMALL_SIZES_PX if size < own), own}))
    smaller = STEP_PX * max(2, round(SHARE_OF_SIZE * own / STEP_PX))
    return tuple(sorted({smaller, own}))


def heads(
    at_hand: Sequence[WeightsAtHand], flop_of: Mapping[WeightsAtHand, float], typical_px: int, images: int, base: Recipe
) -> tuple[Candidate, ...]:
    """Linear heads on frozen features: every backbone at hand in every size, from cheap to expensive.

    Args:
        flop_of: operations of a backbone for one image of its own size.
        typical_px: median of the shorter sides of the images.
        images: number of images whose features are computed.
        base: recipe whose seed, split and class weights all candidates share.
    """
    found = [
        _head(backbone, size, flop_of[backbone], images, base)
        for backbone in at_hand
        for size in sizes_px(backbone.spec, typical_px)
    ]
    return _distinct(sorted(found, key=lambda one: (one.flop, one.name)))


def _head(backbone: WeightsAtHand, size_px: int, flop: float, images: int, base: Recipe) -> Candidate:
    """Head on the features of one backbone."""
    return Candidate(
        name=f"features-{_short(backbone)}-{size_px}px",
        kind="features",
        title=f"head on {_short(backbone)}, {size_px} px",
        recipe=_sized(_with(catalog.recipe(BASE), base, backbone), size_px),
        flop=flop * (size_px / _own_px(backbone.spec)) ** 2 * images,
        backbone=backbone,
        size_px=size_px,
    )


def _own_px(network: BackboneSpec) -> int:
    """Shorter side of the input that a backbone was trained with."""
    native = native_preprocessing(network)
    return min(native.size) if native else 224


def joint_heads(
    at_hand: Sequence[WeightsAtHand], flop_of: Mapping[WeightsAtHand, float], typical_px: int, images: int, base: Recipe
) -> tuple[Candidate, ...]:
    """Heads on the features of all backbones at hand together, at a smaller and at the usual own size, cheapest first.

    Two heads that are equally good gained 2.5 points together on hand signs (results/blends.md), at the sum of their
    costs. Empty where there are fewer than two backbones.
    """
    distinct = [*{one.backbone: one for one in at_hand}.values()]
    if len(distinct) < 2:
        return ()
    own = sorted(_own_px(one.spec) for one in distinct)[len(distinct) // 2]
    usual = next(one for one in distinct if _own_px(one.spec) == own)
    native = native_preprocessing(usual.spec)
    interpolation = native.interpolation if native else None
    found = []
    for size in sizes_px(usual.spec, typical_px)[-2:]:
        members = tuple(_head(one, size, flop_of[one], images, base) for one in distinct)
        network = BlendSpec(members=tuple(BlendMember(network=one.spec) for one in distinct))
        recipe = _sized(_shared(catalog.recipe(BASE), base), size)
        pixels = recipe.input.model_copy(update={"interpolation": interpolation})
        recipe = recipe.model_copy(update={"model": network, "input": pixels})
        found.append(
            Candidate(
                name=f"features-of-{len(distinct)}-backbones-{size}px",
                kind="features",
                title=f"head on {len(distinct)} backbones together, {size} px",
                recipe=recipe,
                flop=sum(one.flop for one in members),
                size_px=size,
                members=members,
            )
        )
    return tuple(found)


def parts(train_images: int) -> tuple[int | None, ...]:
    """Numbers of training images to learn from, from all on; each is clearly below the one before."""
    return (None, *(images for images in PARTS if 1.5 * images < train_images))


def _short(backbone: WeightsAtHand) -> str:
    return backbone.backbone.replace("/", "-")


def _distinct(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Candidates with a number in the names that would repeat: two files may hold weights of one network."""
    counts, named = dict[str, int](), []
    for one in candidates:
        number = counts[one.name] = counts.get(one.name, 0) + 1
        named.append(one if number == 1 else replace(one, name=f"{one.name}-{number}"))
    return tuple(named)


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
        short, smaller = _short(best.backbone), _smaller(best, typical_px)
        blocks: list[tuple[Kind, str, float, int]] = [("last-block", "last block of", 0.3, size) for size in smaller]
        for kind, title, share, size in (*blocks, ("finetune", "all of", float(BACKWARD), best.size_px)):
            pass_flop = flop * (size / best.size_px) ** 2 * train_images
            recipe = _sized(_with(catalog.recipe(kind), base, best.backbone), size)
            if kind == "finetune":
                decayed = recipe.stages[-1].model_copy(update={"layer_decay": LAYER_DECAY})
                recipe = recipe.model_copy(update={"stages": (*recipe.stages[:-1], decayed)})
            recipe = _flipped(recipe, flips)
            found.append(
                Family(
                    name=f"{kind}-{short}-{size}px",
                    kind=kind,
                    title=f"{title} {short}, {size} px",
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
        return _sized(_shared(catalog.recipe("small-images"), base), SMALL_PX)
    small = "digits" if typical_px <= 8 else "small-images" if typical_px < TINY_PX else "fast"
    return _shared(catalog.recipe("photographs" if typical_px > SMALL_PX else small), base)


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


def _with(recipe: Recipe, base: Recipe, backbone: WeightsAtHand) -> Recipe:
    """Recipe with a backbone at hand, and what all candidates share."""
    assert isinstance(recipe.model, BackboneSpec)
    network = recipe.model.model_copy(update={"backbone": backbone.backbone, "weights": backbone.weights})
    return _shared(recipe, base).model_copy(update={"model": network})


def _shared(recipe: Recipe, base: Recipe) -> Recipe:
    """Recipe with the seed, the split, the class weights and, unless it is the usual one, the monitor of `base`."""
    shared = {"seed": base.seed, "split": base.split, "class_weights": base.class_weights}
    if base.monitor != catalog.recipe(BASE).monitor:
        shared["monitor"] = base.monitor
    return recipe.model_copy(update=shared)


def _sized(recipe: Recipe, size_px: int) -> Recipe:
    return recipe.model_copy(
        update={"input": recipe.input.model_copy(update={"size_px": Size(size_px, size_px).given})}
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
