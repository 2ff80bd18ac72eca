"""Published figures of tutorials: two networks for CIFAR-10, and three for photographs of cats and dogs."""

from loupe.recipes.published.publication import Published

CIFAR10 = (
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
)

CATS_VS_DOGS = (
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
