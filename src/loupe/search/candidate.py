"""Candidate of a search: a recipe that it may train, with what it costs."""

from dataclasses import dataclass, replace
from typing import Any

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Recipe
from loupe.config.size import Size
from loupe.evaluate.search_results import Kind
from loupe.models.at_hand import WeightsAtHand
from loupe.recipes import catalog

BASE = "features"  # recipe whose settings those of `base` are, but for what was given
PARTS = (20_000, 10_000, 5_000, 2_000, 1_000, 500)  # training images, where the time is short for all of them


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


def parts(train_images: int) -> tuple[int | None, ...]:
    """Numbers of training images to learn from, from all on; each is clearly below the one before."""
    return (None, *(images for images in PARTS if 1.5 * images < train_images))


def short(backbone: WeightsAtHand) -> str:
    return backbone.backbone.replace("/", "-")


def with_backbone(recipe: Recipe, base: Recipe, backbone: WeightsAtHand) -> Recipe:
    """Recipe with a backbone at hand, and what all candidates share."""
    assert isinstance(recipe.model, BackboneSpec)
    network = recipe.model.model_copy(update={"backbone": backbone.backbone, "weights": backbone.weights})
    return shared(recipe, base).model_copy(update={"model": network})


def shared(recipe: Recipe, base: Recipe) -> Recipe:
    """Recipe with the seed, the split, the class weights and, unless it is the usual one, the monitor of `base`."""
    values = {"seed": base.seed, "split": base.split, "class_weights": base.class_weights}
    if base.monitor != catalog.recipe(BASE).monitor:
        values["monitor"] = base.monitor
    return recipe.model_copy(update=values)


def sized(recipe: Recipe, size_px: int) -> Recipe:
    return recipe.model_copy(
        update={"input": recipe.input.model_copy(update={"size_px": Size(size_px, size_px).given})}
    )
