"""What course notes and project reports published: one row for each experiment, as data.

The figures are those of the documents, read off single runs; what a document leaves open is marked (assumed) in its
wording, and counts that follow from the layers though nobody printed them are `derived`. Accuracy is that of the test
set unless `judged_on` says otherwise, F1 is micro, AUC one-versus-rest and macro, loss that of the test set.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from loupe.errors import unknown_name

AUGMENTED = "zoom 0.25, height shift 0.25, width shift 0.3, rotation 45 degrees, shear 0.25 degrees, horizontal flip"
VGG16_HEAD = "VGG16 without its top, at 32 px, flattened to 512; Dense 256, 512, 10"
MOBILENET_HEAD = "MobileNet v1 (width 1.0) without its top, at 32 px, flattened to 1,024; Dense 256, 512, 10"


@dataclass(frozen=True)
class Published:
    """One experiment as a document describes it, and what came out.

    Attributes:
        network, pixels, training: the document's wording, shortened.
        accuracy: a fraction; with `accuracy_to`, the lower end of a range. None where no figure is given.
        epochs: the most that were trained; with early stopping, fewer.
        seconds: of the whole training; seconds_per_epoch: of one epoch; both on the document's machine, a GPU.
        parameters, non_trainable: Keras's counts, in which the running statistics of batch normalisation are
            non-trainable parameters; None where neither printed nor derivable.
        outputs: of the network; 1 stands for a sigmoid between two classes.
        quick_epochs: the target for the quick form, one eighth of the epochs; quick_epochs_most: the bound.
        weights: the pretrained network that it starts from; None: from scratch.
        remark: what a reader of the figure should know.
    """

    name: str
    dataset: Literal["cifar10", "cats_vs_dogs"]
    network: str
    pixels: str
    training: str
    epochs: int
    accuracy: float | None = None
    accuracy_to: float | None = None
    judged_on: Literal["test", "validation"] = "test"
    micro_f1: float | None = None
    roc_auc: float | None = None
    log_loss: float | None = None
    seconds: float | None = None
    seconds_per_epoch: float | None = None
    parameters: int | None = None
    non_trainable: int | None = 0
    derived: bool = False
    outputs: int = 10
    weights: str | None = None
    remark: str = ""

    @property
    def quick_epochs(self) -> int:
        return max(1, self.epochs // 8)

    @property
    def quick_epochs_most(self) -> int:
        return self.epochs // (2 if self.epochs <= 10 else 4)

    def to_json(self) -> dict[str, Any]:
        """The row as results.json and `loupe recipes NAME --json` show it."""
        return asdict(self)


def experiment(name: str) -> Published:
    """The experiment of that name; LoupeError with the nearest known names where there is none."""
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]


_ROWS = (
    Published(
        name="simple-cnn",
        dataset="cifar10",
        network="Conv 16, 32, 64, 2x2, same padding, ReLU, each with a 2x2 max-pool; dropout 0.3; Dense 500; dropout "
        "0.4; Dense 10",
        pixels="/255; the first 5,000 training images are the validation set",
        training="RMSprop 1e-3, batch 32, 100 epochs, best weights by validation loss",
        epochs=100,
        accuracy=0.66,
        parameters=528_054,
        derived=True,
        remark="about 66; validation accuracy 0.505, 0.609, 0.591, 0.658, 0.648, 0.603 in epochs 1 to 6",
    ),
    Published(
        name="deep-cnn",
        dataset="cifar10",
        network="three blocks of two 3x3 convolutions with BatchNorm, 32, 64, 128 filters; max-pool and dropout 0.2, "
        "0.3, 0.4 after each; Dense 10; L2 1e-4 on the convolutions",
        pixels="minus the training mean, over the deviation; rotation 15 degrees, shifts 0.1, horizontal flip",
        training="Adam (1e-3 assumed), 351 steps per epoch (batch 128, 5,000 validation images assumed), 125 epochs, "
        "best by validation loss",
        epochs=125,
        accuracy=0.8485,
        seconds_per_epoch=24.0,
        parameters=309_290,
        non_trainable=896,
        derived=True,
        remark="validation 0.867 at epoch 115; 69 ms per step on a GPU",
    ),
    Published(
        name="lecture-cnn",
        dataset="cifar10",
        network="3x3 convolutions without activation, two each of 32, 64, 128, a max-pool after each pair; Dense 128, "
        "64, 10",
        pixels="/255",
        training="Adam 1e-3, batch 128, 10 epochs, no validation set",
        epochs=10,
        accuracy=0.73,
        log_loss=1.1302,
        parameters=558_186,
        remark="training accuracy 0.913",
    ),
    Published(
        name="lecture-dropout",
        dataset="cifar10",
        network="as lecture-cnn with 256 filters in the third pair; dropout 0.2 after the first two pools and both "
        "hidden layers",
        pixels="/255; the last 20 % of the training images are validation",
        training="Adam, batch 128, 40 epochs",
        epochs=40,
        accuracy=0.7516,
        log_loss=1.0808,
        parameters=1_336_682,
        derived=True,
    ),
    Published(
        name="lecture-batchnorm",
        dataset="cifar10",
        network="as lecture-dropout with BatchNorm before each max-pool",
        pixels="/255; the last 20 % of the training images are validation",
        training="Adam, batch 128, 60 epochs",
        epochs=60,
        accuracy=0.7658,
        log_loss=0.9479,
        seconds=446.0,
        parameters=1_338_090,
        non_trainable=704,
        derived=True,
    ),
    Published(
        name="lecture-augment",
        dataset="cifar10",
        network="as lecture-batchnorm, continued from its trained weights",
        pixels="/255; shifts 0.1, horizontal flip; 20 % validation, stratified, drawn anew",
        training="Adam, batch 128, 60 + 100 epochs",
        epochs=160,
        accuracy=0.8155,
        log_loss=0.5681,
        seconds=2919.0,
        parameters=1_338_090,
        non_trainable=704,
        derived=True,
        remark="the document validates on images already trained on; here two stages have one split",
    ),
    Published(
        name="lecture-vgg16",
        dataset="cifar10",
        network="VGG16 without its top, all trainable, at 32 px; global average pooling; Dense 128, 64 with dropout "
        "0.2; Dense 10",
        pixels="/255; 20 % validation",
        training="Adam 1e-3, batch 128, early stopping on validation loss with patience 10, at most 100 epochs",
        epochs=100,
        accuracy=0.7865,
        log_loss=0.9085,
        seconds=281.0,
        parameters=14_789_258,
        derived=True,
        weights="VGG16",
        remark="stopped after about 15 epochs",
    ),
    Published(
        name="lecture-vgg16-augment",
        dataset="cifar10",
        network="as lecture-vgg16, continued from its trained weights",
        pixels="/255; shifts 0.1, horizontal flip; 20 % validation, drawn anew",
        training="Adam 1e-3, batch 128, early stopping on validation loss with patience 10, at most 100 epochs",
        epochs=100,
        accuracy=0.8575,
        log_loss=0.5882,
        seconds=1004.0,
        parameters=14_789_258,
        derived=True,
        weights="VGG16",
    ),
    Published(
        name="project-cnn",
        dataset="cifar10",
        network="Conv 32, 3x3, valid padding, ReLU, with a 2x2 max-pool, twice; Dense 256, 512, 10; uniform "
        "initialisation",
        pixels="/255; 40,000 / 10,000 split",
        training="Adam, batch 40, 100 epochs (batch and epochs assumed)",
        epochs=100,
        accuracy=0.6508,
        micro_f1=0.651,
        roc_auc=0.927,
        log_loss=5.479,
        parameters=442_026,
        remark="training accuracy above 0.96",
    ),
    Published(
        name="project-cnn-augment",
        dataset="cifar10",
        network="as project-cnn with one convolution",
        pixels=f"/255; {AUGMENTED}",
        training="Adam, batch 40, 1,000 steps per epoch, 100 epochs",
        epochs=100,
        accuracy=0.5836,
        micro_f1=0.584,
        roc_auc=0.925,
        log_loss=1.234,
        parameters=1_981_066,
    ),
    Published(
        name="project-vgg16-features",
        dataset="cifar10",
        network=f"{VGG16_HEAD}; frozen",
        pixels="features computed once",
        training="Adam, batch 30, 100 epochs",
        epochs=100,
        accuracy=0.5813,
        micro_f1=0.581,
        roc_auc=0.903,
        log_loss=6.506,
        parameters=14_982_730,
        non_trainable=14_714_688,
        weights="VGG16",
        remark="the head alone has 268,042 parameters",
    ),
    Published(
        name="project-vgg16-features-augment",
        dataset="cifar10",
        network=f"{VGG16_HEAD}; frozen inside the model",
        pixels=f"/255; {AUGMENTED}",
        training="Adam, batch 40, 1,000 steps per epoch, 100 epochs",
        epochs=100,
        accuracy=0.5684,
        micro_f1=0.568,
        roc_auc=0.914,
        log_loss=1.256,
        parameters=14_982_730,
        non_trainable=14_714_688,
        weights="VGG16",
    ),
    Published(
        name="project-vgg16-finetune",
        dataset="cifar10",
        network=f"{VGG16_HEAD}; all trainable",
        pixels=f"/255; {AUGMENTED}",
        training="Adam, batch 40, 1,000 steps per epoch, 100 epochs",
        epochs=100,
        accuracy=0.7843,
        micro_f1=0.784,
        roc_auc=0.974,
        log_loss=0.717,
        parameters=14_982_730,
        weights="VGG16",
    ),
    Published(
        name="project-mobilenet-features",
        dataset="cifar10",
        network=f"{MOBILENET_HEAD}; frozen",
        pixels="features computed once",
        training="Adam, batch 30, 100 epochs",
        epochs=100,
        accuracy=0.2153,
        micro_f1=0.215,
        roc_auc=0.646,
        log_loss=3.034,
        parameters=3_627_978,
        non_trainable=3_228_864,
        weights="MobileNet v1",
        remark="the head alone has 399,114 parameters",
    ),
    Published(
        name="project-mobilenet-features-augment",
        dataset="cifar10",
        network=f"{MOBILENET_HEAD}; frozen inside the model",
        pixels=f"/255; {AUGMENTED}",
        training="Adam, batch 40, 1,000 steps per epoch, 100 epochs",
        epochs=100,
        accuracy=0.1248,
        micro_f1=0.125,
        roc_auc=0.543,
        log_loss=3.121,
        parameters=3_627_978,
        non_trainable=3_228_864,
        weights="MobileNet v1",
    ),
    Published(
        name="project-mobilenet-finetune",
        dataset="cifar10",
        network=f"{MOBILENET_HEAD}; all trainable",
        pixels=f"/255; {AUGMENTED}",
        training="Adam, batch 40, 1,000 steps per epoch, 100 epochs",
        epochs=100,
        accuracy=0.822,
        micro_f1=0.822,
        roc_auc=0.984,
        log_loss=0.52,
        parameters=3_627_978,
        non_trainable=21_888,
        weights="MobileNet v1",
        remark="AUC is one-versus-one",
    ),
    Published(
        name="catsdogs-cnn",
        dataset="cats_vs_dogs",
        network="Conv 32, 32, 64, 3x3, valid padding, ReLU, each with a 2x2 max-pool, at 150 px; Dense 64; dropout 0.5 "
        "(both assumed); one sigmoid output",
        pixels="/255; rotation 40 degrees, shifts 0.2, shear 0.2 (degrees assumed), zoom 0.2, horizontal flip",
        training="2,000 training and 800 validation images, batch 32, 50 epochs (RMSprop 1e-3 assumed)",
        epochs=50,
        accuracy=0.79,
        accuracy_to=0.81,
        judged_on="validation",
        parameters=1_212_513,
        derived=True,
        outputs=1,
        remark="as a softmax over two classes, the same function, 1,212,578 parameters",
    ),
    Published(
        name="catsdogs-vgg16-bottleneck",
        dataset="cats_vs_dogs",
        network="VGG16's convolutional part run once, its last activation maps stored; Dense 256, dropout 0.5, output "
        "(assumed)",
        pixels="/255, 150 px (assumed)",
        training="50 epochs",
        epochs=50,
        judged_on="validation",
        non_trainable=None,
        outputs=1,
        weights="VGG16",
        remark="given only as the step before catsdogs-vgg16-finetune",
    ),
    Published(
        name="catsdogs-vgg16-finetune",
        dataset="cats_vs_dogs",
        network="the trained top put on VGG16; everything before the last convolutional block frozen",
        pixels="as catsdogs-cnn",
        training="SGD 1e-4, momentum 0.9, batch 32, 50 epochs",
        epochs=50,
        accuracy=0.94,
        judged_on="validation",
        non_trainable=None,
        outputs=1,
        weights="VGG16",
        remark="the text claims the same on 12,500 test images",
    ),
)
EXPERIMENTS: dict[str, Published] = {row.name: row for row in _ROWS}
