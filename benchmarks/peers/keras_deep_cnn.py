"""deep-cnn in Keras (TensorFlow backend), with ImageDataGenerator, as the document writes it.

    python -m venv keras-venv && keras-venv/bin/pip install tensorflow pillow scipy
    keras-venv/bin/python benchmarks/peers/keras_deep_cnn.py PIXELS.npz --mode augmented

Run by benchmarks/train_throughput.py --keras-python keras-venv/bin/python. Nothing of this environment is a dependency
of Loupe's. Keras 3 keeps ImageDataGenerator under keras.src.legacy, after taking it out of its public names.
"""

import os

import measure

given = measure.arguments(__doc__)
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402

try:
    from keras.preprocessing.image import ImageDataGenerator  # Keras 2
except ImportError:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator


def network() -> keras.Model:
    """Three blocks of (convolution, ReLU, normalisation) twice; 309,290 parameters."""
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for filters, dropout in ((32, 0.2), (64, 0.3), (128, 0.4)):
        for _ in range(2):
            kernel = keras.regularizers.l2(1e-4)
            model.add(layers.Conv2D(filters, (3, 3), padding="same", kernel_regularizer=kernel))
            model.add(layers.Activation("relu"))
            model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D((2, 2)))
        model.add(layers.Dropout(dropout))
    model.add(layers.Flatten())
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-3), loss="categorical_crossentropy", metrics=["accuracy"]
    )
    return model


class StepClock(keras.callbacks.Callback):
    def __init__(self, clock: measure.Clock) -> None:
        super().__init__()
        self.clock = clock

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.clock.mark()


def generator_speed(generator: ImageDataGenerator, x: np.ndarray, y: np.ndarray) -> float:
    """Images per second of the generator alone: what it could feed a network that took no time."""
    flow, clock = generator.flow(x, y, batch_size=measure.BATCH_IMAGES), measure.Clock()
    for _ in range(given.steps + 1):
        next(flow)
        clock.mark()
    return clock.speeds(warmup=0)["images_per_second"]


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    keras.utils.set_random_seed(0)
    with np.load(given.pixels) as arrays:
        x, y = arrays["x"].astype("float32"), keras.utils.to_categorical(arrays["y"], 10)
    x = (x - np.mean(x)) / (np.std(x) + 1e-7)
    model, clock, steps = network(), measure.Clock(), given.warmup + given.steps + 1
    fit = {"steps_per_epoch": steps, "epochs": 1, "verbose": 0, "callbacks": [StepClock(clock)]}
    alone = None
    if given.mode == "augmented":
        generator = ImageDataGenerator(
            rotation_range=15, width_shift_range=0.1, height_shift_range=0.1, horizontal_flip=True
        )
        model.fit(generator.flow(x, y, batch_size=measure.BATCH_IMAGES), **fit)
        alone = generator_speed(generator, x, y)
    else:
        model.fit(x, y, batch_size=measure.BATCH_IMAGES, **fit)
    measure.report(
        parameters=model.count_params(),
        precision="fp32",
        versions={"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__},
        generator_images_per_second=alone,
        **clock.speeds(given.warmup),
    )


main()
