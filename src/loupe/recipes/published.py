"""The experiments of course notes and project reports, as they were run."""

from loupe.models.cnn import catsdogs_cnn as catsdogs_network
from loupe.models.cnn import deep_cnn as deep_network
from loupe.models.cnn import simple_cnn as simple_network
from loupe.recipe import Adam, AugmentSpec, InputSpec, Recipe, RmsProp, SplitSpec, Stage


def simple_cnn() -> Recipe:
    """`loupe train cifar10 --recipe simple-cnn`: published test accuracy about 66 %, best of 100 epochs."""
    return Recipe(
        name="simple-cnn",
        description="Three small convolutions and a wide hidden layer, as published: RMSprop, 100 epochs.",
        input=InputSpec(size_px=32, normalise="unit"),
        split=SplitSpec(validation=5000, choose="first"),
        model=simple_network(),
        stages=(
            Stage(
                epochs=100,
                batch_size=32,
                optimizer=RmsProp(rho=0.9, epsilon=1e-7, epsilon_in_root=True),
                lr=1e-3,
            ),
        ),
        monitor="val_loss",
    )


def deep_cnn() -> Recipe:
    """`loupe train cifar10 --recipe deep-cnn`: published test accuracy 84.85 %, best of 125 epochs of 24 s on a GPU."""
    return Recipe(
        name="deep-cnn",
        description="Six convolutions with batch normalisation, dropout and L2, as published: Adam, 125 epochs.",
        input=InputSpec(size_px=32, normalise="dataset"),
        split=SplitSpec(validation=5000),
        model=deep_network(),
        stages=(
            Stage(
                epochs=125,
                batch_size=128,
                optimizer=Adam(epsilon=1e-7),
                lr=1e-3,
                l2=1e-4,
                l2_on="convolutions",
                augment=AugmentSpec(rotation_degrees=15, width_shift=0.1, height_shift=0.1, horizontal_flip=True),
            ),
        ),
        monitor="val_loss",
    )


def catsdogs_cnn() -> Recipe:
    """`loupe train DATA --recipe catsdogs-cnn`: published validation accuracy 79 to 81 %, from 2,000 photographs.

    The optimizer is not stated there; RMSprop at 1e-3 is assumed. Images were squashed to a square by nearest
    neighbour, as Keras did then.
    """
    return Recipe(
        name="catsdogs-cnn",
        description="Three convolutions for photographs of cats and dogs, as published: augmentation, 50 epochs.",
        input=InputSpec(size_px=150, resize="squash", interpolation="nearest", normalise="unit"),
        model=catsdogs_network(),
        stages=(
            Stage(
                epochs=50,
                batch_size=32,
                optimizer=RmsProp(rho=0.9, epsilon=1e-7, epsilon_in_root=True),
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
