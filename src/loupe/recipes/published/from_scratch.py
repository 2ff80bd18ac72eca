"""Recipes of the published experiments that train from random weights; their figures are in `experiments.py`.

Keras's Adam and RMSprop have an epsilon of 1e-7, and RMSprop adds it inside the root.
"""

from loupe.config.network import CnnSpec
from loupe.config.optimizer import Adam, RmsProp
from loupe.config.recipe import AugmentSpec, InputSpec, Recipe, SplitSpec, Stage
from loupe.models import small_networks

KERAS_ADAM = Adam(epsilon=1e-7)
KERAS_RMSPROP = RmsProp(rho=0.9, epsilon=1e-7, epsilon_in_root=True)
UNIT_32_PX = InputSpec(size_px=32, normalise="unit")


def simple_cnn() -> Recipe:
    """`loupe train cifar10 --recipe simple-cnn`: published test accuracy about 66 %, best of 100 epochs."""
    return Recipe(
        name="simple-cnn",
        description="Three small convolutions and a wide hidden layer, as published: RMSprop, 100 epochs.",
        experiment="simple-cnn",
        input=UNIT_32_PX,
        split=SplitSpec(validation=5000, choose="first"),
        model=small_networks.simple_cnn(),
        stages=(Stage(epochs=100, batch_size=32, optimizer=KERAS_RMSPROP, lr=1e-3),),
        monitor="val_loss",
        keep="best",
    )


def deep_cnn() -> Recipe:
    """`loupe train cifar10 --recipe deep-cnn`: published test accuracy 84.85 %, best of 125 epochs of 24 s on a GPU."""
    return Recipe(
        name="deep-cnn",
        description="Six convolutions with batch normalisation, dropout and L2, as published: Adam, 125 epochs.",
        experiment="deep-cnn",
        input=InputSpec(size_px=32, normalise="dataset"),
        split=SplitSpec(validation=5000),
        model=small_networks.deep_cnn(),
        stages=(
            Stage(
                epochs=125,
                batch_size=128,
                optimizer=KERAS_ADAM,
                lr=1e-3,
                l2=1e-4,
                l2_on="convolutions",
                augment=AugmentSpec(rotation_degrees=15, width_shift=0.1, height_shift=0.1, horizontal_flip=True),
            ),
        ),
        monitor="val_objective",
        keep="best",
    )


def lecture_cnn() -> Recipe:
    """`loupe train cifar10 --recipe lecture-cnn`: published test accuracy 73.00 %, training accuracy 91.3 %.

    There is no validation set, so that overfitting cannot be seen.
    """
    return _lecture(
        "lecture-cnn",
        "Six convolutions without activations, as published: Adam, 10 epochs, no validation set.",
        small_networks.lecture_cnn(),
        SplitSpec(validation=0),
        Stage(epochs=10, optimizer=KERAS_ADAM),
    )


def lecture_dropout() -> Recipe:
    """`loupe train cifar10 --recipe lecture-dropout`: published test accuracy 75.16 % after 40 epochs."""
    return _lecture(
        "lecture-dropout",
        "lecture-cnn, wider and with dropout, as published: Adam, 40 epochs.",
        small_networks.lecture_dropout(),
        SplitSpec(validation=0.2, choose="last"),
        Stage(epochs=40, optimizer=KERAS_ADAM),
    )


def lecture_batchnorm() -> Recipe:
    """`loupe train cifar10 --recipe lecture-batchnorm`: published test accuracy 76.58 % after 60 epochs, 7 min 26 s."""
    return _lecture(
        "lecture-batchnorm",
        "lecture-dropout with batch normalisation, as published: Adam, 60 epochs.",
        small_networks.lecture_batchnorm(),
        SplitSpec(validation=0.2, choose="last"),
        Stage(epochs=60, optimizer=KERAS_ADAM),
    )


def lecture_augment() -> Recipe:
    """`loupe train cifar10 --recipe lecture-augment`: published test accuracy 81.55 %, 48 min 39 s (second part).

    The document draws a new validation split for the second part, and so validates on images that it has trained on.
    Here the two parts are two stages, with one split.
    """
    augment = AugmentSpec(width_shift=0.1, height_shift=0.1, horizontal_flip=True)
    return _lecture(
        "lecture-augment",
        "lecture-batchnorm, then 100 epochs more with shifts and flips, as published; one split for both.",
        small_networks.lecture_batchnorm(),
        SplitSpec(validation=0.2),
        Stage(epochs=60, optimizer=KERAS_ADAM),
        Stage(epochs=100, optimizer=KERAS_ADAM, augment=augment),
    )


def project_cnn() -> Recipe:
    """`loupe train cifar10 --recipe project-cnn`: published test accuracy 65.08 %, training accuracy above 96 %.

    Batch 40 and 100 epochs are assumed: the page is illegible.
    """
    return _project(
        "project-cnn",
        "Two convolutions, two hidden layers, as published: Adam, 100 epochs.",
        small_networks.project_cnn(),
    )


def project_cnn_augment() -> Recipe:
    """`loupe train cifar10 --recipe project-cnn-augment`: published test accuracy 58.36 % after 100 epochs.

    1,000 steps of 40 images are the 40,000 training images once.
    """
    return _project(
        "project-cnn-augment",
        "One convolution, two hidden layers and strong augmentation, as published: Adam, 100 epochs.",
        small_networks.project_cnn_one(),
        AugmentSpec(
            zoom=(0.75, 1.25),
            height_shift=0.25,
            width_shift=0.3,
            rotation_degrees=45,
            shear_degrees=0.25,
            horizontal_flip=True,
        ),
    )


def catsdogs_cnn() -> Recipe:
    """`loupe train DATA --recipe catsdogs-cnn`: published validation accuracy 79 to 81 %, from 2,000 photographs.

    The optimizer is not stated there; RMSprop at 1e-3 is assumed. Images were squashed to a square by nearest
    neighbour, as Keras did then.
    """
    return Recipe(
        name="catsdogs-cnn",
        description="Three convolutions for photographs of cats and dogs, as published: augmentation, 50 epochs.",
        experiment="catsdogs-cnn",
        input=InputSpec(size_px=150, resize="squash", interpolation="nearest", normalise="unit"),
        model=small_networks.catsdogs_cnn(),
        stages=(
            Stage(
                epochs=50,
                batch_size=32,
                optimizer=KERAS_RMSPROP,
                lr=1e-3,
                augment=AugmentSpec(
                    rotation_degrees=40,
                    width_shift=0.2,
                    height_shift=0.2,
                    shear_degrees=0.2,
                    zoom=(0.8, 1.2),
                    horizontal_flip=True,
                ),
            ),
        ),
        keep="last",
    )


def _lecture(name: str, description: str, model: CnnSpec, split: SplitSpec, *stages: Stage) -> Recipe:
    """Settings of the lecture's four from-scratch experiments; the batch size is the default, 128."""
    return Recipe(
        name=name,
        description=description,
        experiment=name,
        input=UNIT_32_PX,
        split=split,
        model=model,
        stages=stages,
        keep="last",
    )


def _project(name: str, description: str, model: CnnSpec, augment: AugmentSpec | None = None) -> Recipe:
    """Settings of the project's two from-scratch experiments."""
    return Recipe(
        name=name,
        description=description,
        experiment=name,
        input=UNIT_32_PX,
        split=SplitSpec(validation=10_000),
        model=model,
        stages=(Stage(epochs=100, batch_size=40, optimizer=KERAS_ADAM, augment=augment or AugmentSpec()),),
        keep="last",
    )
