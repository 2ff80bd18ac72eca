"""A head, or the last block with a head, on a frozen backbone: Keras as course notebooks write it. Time only.

    python -m venv keras-venv && keras-venv/bin/pip install tensorflow pillow scipy
    keras-venv/bin/python benchmarks/peers/keras_transfer.py FOLDER --job last-block

Run by benchmarks/transfer.py --keras-python keras-venv/bin/python. ImageDataGenerator reads the folders, the frozen
base is a layer of the model, and model.fit runs it in every epoch. Its accuracy says nothing: without a network Keras
cannot get ImageNet's weights, and its networks are others than timm's; so none is reported. ImageDataGenerator has no
random resized crop: zoom and shifts stand in for it, which cost what any of its transformations costs.
"""

import argparse
import os
import time
from pathlib import Path

import measure

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

try:
    from keras.preprocessing.image import ImageDataGenerator  # Keras 2
except ImportError:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

JOBS = {"features-augment": (64, 3e-3), "last-block": (32, 3e-4)}  # batch size and learning rate
# Each network: how it is built, what prepares its pixels, and the first layer of its last block.
NETWORKS = {
    "MobileNet": (keras.applications.MobileNet, keras.applications.mobilenet.preprocess_input, "conv_dw_13"),
    "EfficientNetB0": (
        keras.applications.EfficientNetB0,
        keras.applications.efficientnet.preprocess_input,
        "block7a_expand_conv",
    ),
}


def network(name: str, job: str, lr: float) -> keras.Model:
    build, _, last_block = NETWORKS[name]
    base = build(include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg")
    names = [layer.name for layer in base.layers]
    learning = len(names) if job == "features-augment" else names.index(last_block)
    for layer in base.layers[:learning]:
        layer.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(2, activation="softmax")])
    model.compile(optimizer=keras.optimizers.Adam(lr), loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train, val and test folders of class folders")
    parser.add_argument("--job", choices=tuple(JOBS), default="features-augment")
    parser.add_argument("--network", choices=tuple(NETWORKS), default="MobileNet")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    keras.utils.set_random_seed(0)
    began = time.perf_counter()
    batch_size, lr = JOBS[given.job]
    prepare = NETWORKS[given.network][1]
    # A crop of 0.6 to 1 of the area has 0.775 to 1 of the side.
    augmented = ImageDataGenerator(
        preprocessing_function=prepare,
        zoom_range=(0.775, 1.0),
        width_shift_range=0.1,
        height_shift_range=0.1,
        horizontal_flip=True,
    )
    plain = ImageDataGenerator(preprocessing_function=prepare)
    flow = {"target_size": (224, 224), "class_mode": "categorical"}
    train = augmented.flow_from_directory(given.data / "train", batch_size=batch_size, **flow)
    val = plain.flow_from_directory(given.data / "val", batch_size=64, shuffle=False, **flow)
    test = plain.flow_from_directory(given.data / "test", batch_size=64, shuffle=False, **flow)
    model = network(given.network, given.job, lr)
    model.fit(train, validation_data=val, epochs=given.epochs, verbose=0)
    train_seconds = time.perf_counter() - began
    model.evaluate(test, verbose=0)
    measure.report(
        train_seconds=train_seconds,
        val=None,
        test=None,
        why=f"time only: {given.network} with random weights, since Keras cannot get ImageNet's without a network",
        versions={"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__},
    )


if __name__ == "__main__":
    main()
