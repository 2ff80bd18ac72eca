"""Views of test-time augmentation against NumPy, and their mean through the engines."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.devices import Compute
from loupe.errors import ConfigError
from loupe.models import test_time
from loupe.models.cnn import cnn
from loupe.models.conversion import convert
from loupe.models.openvino_network import OpenVinoNetwork
from loupe.models.torch_network import TorchNetwork

CPU = Compute(torch.device("cpu"), "fp32")
CROP = Preprocessing(size_px=[5, 7], load_px=[8, 8])  # margins of 1 and 2 rows, 0 and 1 columns


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


class Recorder:
    """Stand-in engine: the first row and column of each image, and what it was given."""

    name = "stand-in"
    batch_images = 3
    in_flight = 1

    def __init__(self):
        self.seen = []

    def run(self, pixels):
        for x_BHWC in pixels:
            self.seen.append(x_BHWC.copy())
            yield x_BHWC[:, 1, :2, 0].astype(np.float32)


def moved(image_HWC: np.ndarray, by_px: int) -> np.ndarray:
    """Reference: an image moved down and to the right, its edges repeated."""
    height, width, _ = image_HWC.shape
    padded = np.pad(image_HWC, ((1, 1), (1, 1), (0, 0)), "edge")
    return padded[1 - by_px : 1 - by_px + height, 1 - by_px : 1 - by_px + width]


@pytest.mark.parametrize("name", test_time.AUGMENTATIONS)
def test_views_and_their_mean_are_those_of_numpy(images, name):
    recorder, given = Recorder(), images.copy()
    (mean,) = test_time.averaged(recorder, name, CROP).run(iter([images]))
    np.testing.assert_array_equal(images, given)
    crop = images[:, 1:6, :7]
    shifts = (0,) if name == "flip" else (0, -1, 1)
    wanted = [np.array([moved(x, s) for x in v]) for s in shifts for v in (crop, crop[:, :, ::-1])]
    np.testing.assert_array_equal([x[:, 1:6, :7] for x in recorder.seen], wanted)
    weights = [0.5, 0.5] if name == "flip" else [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    reference = sum(w * v[:, 0, :2, 0].astype(np.float64) for w, v in zip(weights, wanted, strict=True))
    np.testing.assert_allclose(mean, reference, rtol=1e-6)
    assert np.isclose(sum(view.weight for view in test_time.AUGMENTATIONS[name]), 1)


def test_without_a_name_the_engine_is_the_same():
    recorder = Recorder()
    assert test_time.averaged(recorder, None, CROP) is recorder


def test_batches_keep_their_order_and_wait_for_no_later_one(images):
    given = []

    def batches():
        for k in range(3):
            given.append(k)
            yield images // 2 + np.uint8(k)

    means = test_time.averaged(Recorder(), "flip-shift", CROP).run(batches())
    first = next(means)
    assert given == [0]
    later = [*means]
    np.testing.assert_allclose(later[1] - first, 2, rtol=1e-5)


@pytest.mark.parametrize("name", test_time.AUGMENTATIONS)
def test_every_engine_gives_the_mean_of_the_views_of_preprocessed_images(images, name, tmp_path):
    spec = CnnSpec(name="tiny", blocks=(ConvBlock(filters=(4,)),))
    model = cnn(spec, CROP, ("a", "b"), seed=0).eval()
    engines = [TorchNetwork(model, CPU)]
    if find_spec("openvino"):
        engines.append(OpenVinoNetwork(convert(model, spec, tmp_path).files, "fp32"))
    x_BCHW = engines[0]._view(images)
    wanted_BK = 0
    for view in test_time.AUGMENTATIONS[name]:
        plain_BCHW = x_BCHW.flip(3) if view.mirrored else x_BCHW
        first, (height, width) = 1 - view.shift_px, plain_BCHW.shape[2:]
        padded_BCHW = nn.functional.pad(plain_BCHW, (1, 1, 1, 1), mode="replicate")
        with torch.no_grad():
            wanted_BK += view.weight * model(padded_BCHW[:, :, first : first + height, first : first + width]).numpy()
    for engine in engines:
        averaging = test_time.averaged(engine, name, CROP)
        assert averaging.name == f"{engine.name}, {name}" and averaging.batch_images == engine.batch_images
        (said_BK,) = averaging.run(iter([images]))
        np.testing.assert_allclose(said_BK, wanted_BK, rtol=1e-4, atol=1e-5)
        mirrored = images.copy()
        mirrored[:, 1:6, :7] = images[:, 1:6, 6::-1]
        if name == "flip":
            np.testing.assert_allclose(next(iter(averaging.run(iter([mirrored])))), said_BK, rtol=1e-4, atol=1e-5)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="flip-shift"):
        test_time.check_name("flips")
