"""Views of test-time augmentation against NumPy, and their mean through the engines and the command line."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from loupe.config.size import Size
from loupe.devices import Compute
from loupe.errors import ConfigError
from loupe.models import test_time
from loupe.models.engine import OpenVinoEngine, TorchEngine

CPU = Compute(torch.device("cpu"), "fp32")


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 5, 7, generator=generator).contiguous(memory_format=torch.channels_last)


class Recorder:
    """Stand-in engine: the first row and column of each image, and what it was given."""

    name = "stand-in"

    def __init__(self):
        self.seen = []

    def run(self, inputs):
        for x_BCHW in inputs:
            self.seen.append(x_BCHW.numpy().copy())
            yield x_BCHW[:, 0, 0, :2].numpy()


def moved(image_HW: np.ndarray, by_px: int) -> np.ndarray:
    """Reference: an image moved down and to the right, its edges repeated."""
    height, width = image_HW.shape
    rows = np.clip(np.arange(height) - by_px, 0, height - 1)
    return image_HW[rows][:, np.clip(np.arange(width) - by_px, 0, width - 1)]


@pytest.mark.parametrize("name", test_time.AUGMENTATIONS)
def test_views_and_their_mean_are_those_of_numpy(images, name):
    recorder = Recorder()
    (mean,) = test_time.averaged(recorder, name).run(iter([images]))
    plain = images.numpy()
    shifts = (0,) if name == "flip" else (0, -1, 1)
    wanted = [np.array([[moved(c, s) for c in x] for x in v]) for s in shifts for v in (plain, plain[..., ::-1])]
    np.testing.assert_array_equal(recorder.seen, wanted)
    weights = [0.5, 0.5] if name == "flip" else [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    reference = sum(w * v[:, 0, 0, :2].astype(np.float64) for w, v in zip(weights, wanted, strict=True))
    np.testing.assert_allclose(mean, reference, rtol=1e-6)
    assert np.isclose(sum(view.weight for view in test_time.AUGMENTATIONS[name]), 1)


def test_without_a_name_the_engine_is_the_same():
    recorder = Recorder()
    assert test_time.averaged(recorder, None) is recorder


def test_batches_keep_their_order_and_wait_for_no_later_one(images):
    given = []

    def batches():
        for k in range(3):
            given.append(k)
            yield images + k

    means = test_time.averaged(Recorder(), "flip-shift").run(batches())
    first = next(means)
    assert given == [0]
    later = [*means]
    np.testing.assert_allclose(later[1] - first, 2, rtol=1e-5)


def test_a_mirrored_image_has_the_same_answer_in_every_engine(images):
    blocks = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(60, 2))
    engines = [TorchEngine(blocks, CPU)]
    if find_spec("openvino"):
        engines.append(OpenVinoEngine(blocks, CPU, Size(5, 7)))
    answers = []
    for engine in engines:
        flipped = test_time.averaged(engine, "flip")
        assert flipped.name.endswith(", flip")
        answers += np.concatenate([*flipped.run(iter([images, images.flip(3)]))]).reshape(2, 3, 2)[:, None].tolist()
    answers = np.array(answers).squeeze()
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-4, atol=1e-5)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="flip-shift"):
        test_time.check_name("flips")
