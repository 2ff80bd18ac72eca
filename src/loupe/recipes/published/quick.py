"""Quick forms of the published experiments from scratch: the same layers, pixels and split, in far fewer epochs.

Only dropout, augmentation, optimizer and schedule differ from the published recipes; they were chosen on validation
data alone. They use one cycle of AdamW, or of Muon if AdamW needs more epochs, label smoothing, flips and small crops.
Dropout is lower, as fewer epochs overfit less. `results/experiments.md` has the measured accuracies.
"""

from loupe.config.network import CnnSpec
from loupe.config.optimizer import Adam, Muon, OneCycle, Optimizer
from loupe.config.recipe import AugmentSpec, Recipe, Stage
from loupe.recipes.published import from_scratch

ADAMW = Adam()
FLIPS_AND_CROPS = AugmentSpec(crop_padding_px=4, fill="reflect", horizontal_flip=True)
FLIPS_AND_SMALL_CROPS = AugmentSpec(crop_padding_px=2, fill="reflect", horizontal_flip=True)


def simple_cnn() -> Recipe:
    """`loupe train cifar10 --recipe simple-cnn-quick`: 6 epochs in place of 100.

    Test accuracy 70.3, 70.3, 70.4 % (published 66), on a JPEG copy of CIFAR-10; 3 minutes on one thread with AMX.
    """
    return _quick(from_scratch.simple_cnn(), _cycle(epochs=6, batch_size=64, lr=3e-3, augment=FLIPS_AND_CROPS))


def deep_cnn() -> Recipe:
    """`loupe train cifar10 --recipe deep-cnn-quick`: 15 epochs in place of 125.

    Test accuracy 86.1, 85.5, 85.7 % (published 84.85), on a JPEG copy of CIFAR-10; 12 minutes on one thread with AMX.
    """
    stage = _cycle(epochs=15, batch_size=128, lr=5e-3, augment=FLIPS_AND_CROPS, optimizer=Muon())
    return _quick(from_scratch.deep_cnn(), stage, dropout=0.0)


def lecture_cnn() -> Recipe:
    """`loupe train cifar10 --recipe lecture-cnn-quick`: 5 epochs in place of 10.

    Test accuracy 75.9, 75.8, 75.5 % (published 73.00), on a JPEG copy of CIFAR-10; 4 minutes on one thread with AMX.
    """
    return _quick(from_scratch.lecture_cnn(), _cycle(epochs=5, batch_size=64, lr=2e-3, augment=FLIPS_AND_SMALL_CROPS))


def lecture_dropout() -> Recipe:
    """`loupe train cifar10 --recipe lecture-dropout-quick`: 8 epochs in place of 40.

    Test accuracy 76.6, 76.0, 76.4 % (published 75.16), on a JPEG copy of CIFAR-10; 10 minutes on one thread with AMX.
    """
    stage = _cycle(epochs=8, batch_size=64, lr=3e-3, augment=FLIPS_AND_SMALL_CROPS, optimizer=Muon())
    return _quick(from_scratch.lecture_dropout(), stage, dropout=0.0)


def lecture_batchnorm() -> Recipe:
    """`loupe train cifar10 --recipe lecture-batchnorm-quick`: 7 epochs in place of 60.

    Test accuracy 78.5, 78.6, 78.1 % (published 76.58), on a JPEG copy of CIFAR-10; 9 minutes on one thread with AMX.
    """
    stage = _cycle(epochs=7, batch_size=64, lr=3e-3, augment=FLIPS_AND_SMALL_CROPS, optimizer=Muon())
    return _quick(from_scratch.lecture_batchnorm(), stage, dropout=0.0)


def lecture_augment() -> Recipe:
    """`loupe train cifar10 --recipe lecture-augment-quick`: one stage of 20 epochs in place of 60 + 100.

    Test accuracy 81.8, 81.5, 82.1 % (published 81.55), on a JPEG copy of CIFAR-10; 20 minutes on one thread with AMX.
    """
    stage = _cycle(epochs=20, batch_size=128, lr=5e-3, augment=FLIPS_AND_CROPS, optimizer=Muon())
    return _quick(from_scratch.lecture_augment(), stage, dropout=0.0)


def project_cnn() -> Recipe:
    """`loupe train cifar10 --recipe project-cnn-quick`: 6 epochs in place of 100.

    Test accuracy 68.3, 67.8, 68.4 % (published 65.08), on a JPEG copy of CIFAR-10; 3 minutes on one thread with AMX.
    """
    return _quick(from_scratch.project_cnn(), _cycle(epochs=6, batch_size=64, lr=2e-3, augment=FLIPS_AND_CROPS))


def project_cnn_augment() -> Recipe:
    """`loupe train cifar10 --recipe project-cnn-augment-quick`: 6 epochs in place of 100.

    Test accuracy 67.0, 64.8, 65.1 % (published 58.36), on a JPEG copy of CIFAR-10; 3 minutes on one thread with AMX.
    """
    return _quick(from_scratch.project_cnn_augment(), _cycle(epochs=6, batch_size=64, lr=2e-3, augment=FLIPS_AND_CROPS))


def catsdogs_cnn() -> Recipe:
    """`loupe train DATA --recipe catsdogs-cnn-quick`: 12 epochs in place of 50.

    Validation accuracy 79.6, 80.0, 80.4 % (published 79 to 81); 4 minutes on one thread with AMX. The published
    figure is a validation accuracy, so that validation must not choose the epoch: the last one is kept.
    """
    augment = AugmentSpec(rotation_degrees=10, width_shift=0.1, height_shift=0.1, zoom=(0.8, 1.0), horizontal_flip=True)
    stage = _cycle(epochs=12, batch_size=16, lr=1e-3, augment=augment, optimizer=Muon(), label_smoothing=0.0)
    return _quick(from_scratch.catsdogs_cnn(), stage, dropout=0.25).model_copy(update={"keep": "last"})


def _cycle(
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    augment: AugmentSpec,
    optimizer: Optimizer = ADAMW,
    label_smoothing: float = 0.1,
) -> Stage:
    return Stage(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        schedule=OneCycle(),
        weight_decay=1e-2,
        label_smoothing=label_smoothing,
        augment=augment,
    )


def _quick(base: Recipe, stage: Stage, dropout: float = 0.5) -> Recipe:
    """Quick form of `base`: one stage, with that share of its dropout."""
    assert isinstance(base.model, CnnSpec)
    blocks = tuple(block.model_copy(update={"dropout": dropout * block.dropout}) for block in base.model.blocks)
    hidden = tuple(layer.model_copy(update={"dropout": dropout * layer.dropout}) for layer in base.model.hidden)
    return base.model_copy(
        update={
            "name": f"{base.name}-quick",
            "description": f"{base.name} in {stage.epochs} epochs in place of {base.epochs}: one cycle.",
            "model": base.model.model_copy(update={"blocks": blocks, "hidden": hidden}),
            "stages": (stage,),
            "monitor": "val_accuracy",
            "keep": "best",
        }
    )
