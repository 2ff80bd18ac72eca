"""Heads on frozen features that a search may try: every backbone at hand in several sizes, and all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loupe.config.network import BackboneSpec, BlendMember, BlendSpec
from loupe.config.recipe import Recipe
from loupe.models.at_hand import WeightsAtHand
from loupe.models.pretrained import native_preprocessing
from loupe.recipes import catalog
from loupe.recipes.choice import SMALL_PX
from loupe.search.candidate import BASE, Candidate, shared, short, sized, with_backbone

STEP_PX = 32  # by which backbones reduce their input
SMALL_SIZES_PX = (64, 96)  # at which small images are enlarged, besides the backbone's own size
SHARE_OF_SIZE = 0.57  # of the backbone's own side, for the smaller of two sizes: a third of the arithmetic


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
        name=f"features-{short(backbone)}-{size_px}px",
        kind="features",
        title=f"head on {short(backbone)}, {size_px} px",
        recipe=sized(with_backbone(catalog.recipe(BASE), base, backbone), size_px),
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
        recipe = sized(shared(catalog.recipe(BASE), base), size)
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


def _distinct(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Candidates with a number in the names that would repeat: two files may hold weights of one network."""
    counts, named = dict[str, int](), []
    for one in candidates:
        number = counts[one.name] = counts.get(one.name, 0) + 1
        named.append(one if number == 1 else replace(one, name=f"{one.name}-{number}"))
    return tuple(named)
