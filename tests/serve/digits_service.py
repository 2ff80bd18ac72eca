"""A service without training and without processes: digits are classified by the nearest of ten images."""

from pathlib import Path

import numpy as np
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from loupe.config.recipe import Preprocessing
from loupe.data.pixels.decode import load
from loupe.serve.app import create_app
from loupe.serve.guard import Access
from loupe.serve.limits import Limits
from loupe.serve.metrics import Metrics
from loupe.serve.openapi_examples import DIGIT
from loupe.serve.served import ServedModel
from loupe.serve.server import routes
from loupe.serve.service import Service

CLASSES = ("0", "one", "<script>alert(1)</script>", "naïve 3", *"456789")
ACCESS = Access(host="127.0.0.1", port=8000, hosts=("testserver",))  # the name that test clients give it


class NearestImage:
    """Engine whose logits are the negative mean squared differences from ten images; the first is the digit 0."""

    name, batch_images, in_flight = "nearest fp32", 32, 1

    def __init__(self, channels=3):
        known = np.random.default_rng(0).integers(0, 256, (len(CLASSES), 8, 8, 1))
        known[0, :, :, 0] = np.rint(np.array(DIGIT) / 16 * 255)
        self._known_KHWC = np.repeat(known, channels, axis=-1).astype(np.float32)

    def run(self, pixels):
        for x_BHWC in pixels:
            difference_BKHWC = x_BHWC[:, None].astype(np.float32) - self._known_KHWC
            yield -(difference_BKHWC**2).mean(axis=(2, 3, 4)) / 1000


class HereDecoders:
    """Decoder in the thread of the server."""

    async def decode(self, data, name, settings):
        return load(data, name, **settings)

    async def start(self): ...

    async def close(self): ...


def model(name="digits", **changes) -> ServedModel:
    preprocessing = Preprocessing(size_px=8, load_px=8, pixel_definition=2, **changes)
    return ServedModel(
        name=name,
        folder=Path(name),
        classes=CLASSES,
        preprocessing=preprocessing,
        temperature=2.0,
        threshold=0.0,
        weights="0123abcd",
        engine=NearestImage(preprocessing.channels),
        is_export=False,
        signature=(),
    )


def service(*models: ServedModel, limits=None) -> Service:
    named = {one.name: one for one in models}
    return Service(named, HereDecoders(), Metrics(named), limits or Limits(images=4))


def app(served: Service) -> ASGIApp:
    return create_app(served, ACCESS, more=routes(served))


def client(served: Service) -> TestClient:
    return TestClient(app(served))
