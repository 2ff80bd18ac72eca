"""Recipes of the published experiments that start from a pretrained network; their figures are in `experiments.py`.

Weights are timm's in place of Keras's, which are not available; layers and parameter counts are the same.
"""

from loupe.config.network import BackboneSpec, Dense
from loupe.config.optimizer import Sgd
from loupe.config.recipe import AugmentSpec, InputSpec, Recipe, SplitSpec, Stage
from loupe.recipes.published.from_scratch import (
    KERAS_ADAM,
    KERAS_RMSPROP,
    UNIT_32_PX,
    catsdogs_cnn,
    project_cnn_augment,
)

VGG16 = "vgg16.tv_in1k"
MOBILENET = "mobilenetv1_100.ra4_e3600_r224_in1k"
PROJECT_HIDDEN = (Dense(units=256), Dense(units=512))
STRONG = project_cnn_augment().stages[0].augment
PHOTOGRAPHS = catsdogs_cnn()
BOTTLENECK = Stage(epochs=50, part="head", batch_size=32, optimizer=KERAS_RMSPROP, lr=1e-3)


def lecture_vgg16() -> Recipe:
    """`loupe train cifar10 --recipe lecture-vgg16`: published test accuracy 78.65 %, about 15 epochs, 4 min 41 s."""
    return _lecture("lecture-vgg16", "VGG16 at 32 px, everything learning, as published: early stopping.", _patient())


def lecture_vgg16_augment() -> Recipe:
    """`loupe train cifar10 --recipe lecture-vgg16-augment`: published test accuracy 85.75 %, 16 min 44 s.

    The document draws a new validation split for the second part. Here the two parts are two stages, with one split.
    """
    augment = AugmentSpec(width_shift=0.1, height_shift=0.1, horizontal_flip=True)
    return _lecture(
        "lecture-vgg16-augment",
        "lecture-vgg16, then on with shifts and flips, as published; one split for both.",
        _patient(),
        _patient(augment),
    )


def project_vgg16_features() -> Recipe:
    """`loupe train cifar10 --recipe project-vgg16-features`: published test accuracy 58.13 %."""
    return _project("project-vgg16-features", "Frozen features of VGG16 at 32 px, as published.", VGG16, _features())


def project_vgg16_features_augment() -> Recipe:
    """`loupe train cifar10 --recipe project-vgg16-features-augment`: published test accuracy 56.84 %."""
    return _project(
        "project-vgg16-features-augment", "The same on fresh augmented views.", VGG16, _augmented("head", "fresh")
    )


def project_vgg16_finetune() -> Recipe:
    """`loupe train cifar10 --recipe project-vgg16-finetune`: published test accuracy 78.43 %."""
    return _project("project-vgg16-finetune", "The same, everything learning.", VGG16, _augmented("all"))


def project_mobilenet_features() -> Recipe:
    """`loupe train cifar10 --recipe project-mobilenet-features`: published test accuracy 21.53 %."""
    return _project(
        "project-mobilenet-features", "Frozen features of MobileNet at 32 px, as published.", MOBILENET, _features()
    )


def project_mobilenet_features_augment() -> Recipe:
    """`loupe train cifar10 --recipe project-mobilenet-features-augment`: published test accuracy 12.48 %."""
    return _project(
        "project-mobilenet-features-augment",
        "The same on fresh augmented views.",
        MOBILENET,
        _augmented("head", "fresh"),
    )


def project_mobilenet_finetune() -> Recipe:
    """`loupe train cifar10 --recipe project-mobilenet-finetune`: published test accuracy 82.2 %."""
    return _project("project-mobilenet-finetune", "The same, everything learning.", MOBILENET, _augmented("all"))


def catsdogs_vgg16_bottleneck() -> Recipe:
    """`loupe train DATA --recipe catsdogs-vgg16-bottleneck`: no figure is published; the step before the next."""
    return _catsdogs("catsdogs-vgg16-bottleneck", "A small head on VGG16's last maps, computed once.", BOTTLENECK)


def catsdogs_vgg16_finetune() -> Recipe:
    """`loupe train DATA --recipe catsdogs-vgg16-finetune`: published validation accuracy 94 %."""
    last_block = Stage(
        epochs=50,
        part="last-block",
        batch_size=32,
        optimizer=Sgd(momentum=0.9, nesterov=False),
        lr=1e-4,
        augment=PHOTOGRAPHS.stages[0].augment,
        views="fresh",
    )
    return _catsdogs("catsdogs-vgg16-finetune", "The head, then VGG16's last block with it.", BOTTLENECK, last_block)


def _patient(augment: AugmentSpec | None = None) -> Stage:
    return Stage(epochs=100, optimizer=KERAS_ADAM, patience_epochs=10, augment=augment or AugmentSpec())


def _features() -> Stage:
    return Stage(epochs=100, part="head", batch_size=30, optimizer=KERAS_ADAM)


def _augmented(part: str, views: str = "auto") -> Stage:
    return Stage.model_validate(
        {"epochs": 100, "part": part, "batch_size": 40, "optimizer": KERAS_ADAM, "augment": STRONG, "views": views}
    )


def _lecture(name: str, description: str, *stages: Stage) -> Recipe:
    hidden = (Dense(units=128, dropout=0.2), Dense(units=64, dropout=0.2))
    model = BackboneSpec(backbone=VGG16, pooling="average", hidden=hidden)
    recipe = _recipe(name, description, UNIT_32_PX, SplitSpec(validation=0.2), model, *stages)
    return recipe.model_copy(update={"monitor": "val_loss"})


def _project(name: str, description: str, backbone: str, stage: Stage) -> Recipe:
    model = BackboneSpec(backbone=backbone, pooling="flatten", hidden=PROJECT_HIDDEN)
    return _recipe(name, description, UNIT_32_PX, SplitSpec(validation=10_000), model, stage)


def _catsdogs(name: str, description: str, *stages: Stage) -> Recipe:
    model = BackboneSpec(backbone=VGG16, pooling="flatten", hidden=(Dense(units=256, dropout=0.5),))
    return _recipe(name, description, PHOTOGRAPHS.input, SplitSpec(), model, *stages)


def _recipe(
    name: str, description: str, pixels: InputSpec, split: SplitSpec, model: BackboneSpec, *stages: Stage
) -> Recipe:
    """Common settings of these recipes: the published figures are those of the last epoch."""
    return Recipe(
        name=name,
        description=description,
        experiment=name,
        input=pixels,
        split=split,
        model=model,
        stages=stages,
        keep="last",
    )
