"""Speed of decoding, matrix products and training: short measurements with the code that a run uses."""

import io
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from PIL import Image

from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import PIXEL_DEFINITION, Preprocessing
from loupe.data.pixels import decode
from loupe.data.pixels.batches import Batch
from loupe.devices import DTYPES, Compute, choose_device, precisions
from loupe.doctor.checks import Check, Finding
from loupe.models.build import build
from loupe.recipes.from_scratch import small_images
from loupe.training.train_step import TrainStep

MEASURED_SECONDS = 0.4
PHOTO = (500, 375)  # pixels, wide and high
DECODED_PX = 224
SIDE = {"cpu": 512, "cuda": 8192, "mps": 2048}  # of the matrices that are multiplied
BATCH, SIZE_PX = 64, 32


def rate(work: Callable[[], object]) -> float:
    """Executions per second, after one that is not counted."""
    work()
    began, times = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < MEASURED_SECONDS:
        work()
        times += 1
    return times / passed


def photograph() -> bytes:
    """JPEG with about as much detail as a photograph: blurred noise, and a little sharp noise over it."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        PHOTO, Image.Resampling.BICUBIC
    )
    pixels = np.clip(np.asarray(coarse, np.int64) + random.integers(-8, 9, (PHOTO[1], PHOTO[0], 3)), 0, 255)
    written = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(written, "JPEG", quality=90)
    return written.getvalue()


def decoding() -> Iterator[Finding]:
    """Images decoded per second, in one thread."""
    data = photograph()
    images = rate(
        lambda: decode.load(
            data,
            "generated",
            load_px=DECODED_PX,
            resize="crop",
            interpolation="bilinear",
            definition=PIXEL_DEFINITION,
        )
    )
    said = f"{images:,.0f} JPEGs/s in one thread ({PHOTO[0]} x {PHOTO[1]} to {DECODED_PX} px)"
    yield Finding("decoding", said, data={"images_per_second": round(images, 1)})


def products() -> Iterator[Finding]:
    """Speed of matrix products on the CPU and the GPU, in each precision of training."""
    for device in dict.fromkeys(("cpu", choose_device("auto").type)):
        speeds = {}
        for precision in precisions(torch.device(device)):
            compute = Compute(torch.device(device), precision)
            speeds[precision] = _product(compute)
        said = ", ".join(f"{precision} {speed / 1e9:,.0f}" for precision, speed in speeds.items())
        yield Finding(
            f"products, {device}",
            f"{said} GFLOP/s ({SIDE[device]} x {SIDE[device]} matrices)",
            data={"flop_per_second": {precision: round(speed) for precision, speed in speeds.items()}},
        )


def _product(compute: Compute) -> float:
    """Floating-point operations per second."""
    side = SIDE[compute.device.type]
    factor = torch.ones(side, side, device=compute.device, dtype=DTYPES[compute.precision])

    def multiply() -> None:
        factor @ factor
        compute.synchronize()

    return 2 * side**3 * rate(multiply)


def training() -> Iterator[Finding]:
    """Training speed of a small network with augmentation, on the device that `auto` chooses."""
    recipe, device = small_images(), choose_device("auto")
    classes = tuple("0123456789")
    preprocessing = Preprocessing(size_px=SIZE_PX, load_px=SIZE_PX)
    model = build(recipe.model, preprocessing, classes, seed=0).to(device)
    compute = Compute(device, "fp32")
    stage = recipe.stages[0]
    train_step = TrainStep(model, stage, Augmenter(stage.augment, preprocessing, 0), compute, None)
    random = np.random.default_rng(0)
    x_BHWC = torch.from_numpy(random.integers(0, 256, (BATCH, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
    y_B = torch.from_numpy(random.integers(0, len(classes), BATCH))
    batch = Batch(x_BHWC.permute(0, 3, 1, 2).to(device), y_B.to(device), np.arange(BATCH))

    def step() -> None:
        train_step.step(batch, None, epoch=0, step=0, steps=0, lr=1e-3)
        compute.synchronize()

    images = BATCH * rate(step)
    said = f"{images:,.0f} images/s on {device} ({recipe.model.name}, {SIZE_PX} px, batch {BATCH}, fp32)"
    yield Finding("training", said, data={"images_per_second": round(images, 1), "device": str(device)})


CHECKS: Mapping[str, Check] = {
    "decoding": decoding,
    "products": products,
    "training": training,
}
