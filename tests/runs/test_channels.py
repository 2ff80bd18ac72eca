"""Single-channel input: grey pixels from the decoder to the bundle, and networks that cannot take them."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import loupe
from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.data.dataset import open_dataset
from loupe.data.pixels.prepare import load_images, pixel_statistics
from loupe.devices import Compute
from loupe.errors import ConfigError
from loupe.explain.feature_maps import map_layers
from loupe.explain.filters import AscentSettings, default_layers, maximise
from loupe.models import bundle
from loupe.models.engine import OpenVinoEngine, TorchEngine
from loupe.report.run_page import write_page

pytestmark = pytest.mark.usefixtures("bare")
GREY = Preprocessing(size_px=8, load_px=8, mean=(0.4,) * 3, std=(0.2,) * 3, channels=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of coloured images that differ in brightness."""
    root, draw = tmp_path_factory.mktemp("grey"), np.random.default_rng(0)
    for name, low in (("dim", 10), ("lit", 150)):
        (root / name).mkdir()
        for number in range(24):
            Image.fromarray(draw.integers(low, low + 90, (8, 8, 3), np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return loupe.train(
        folder,
        recipe="digits",
        epochs=4,
        settings=["input.channels=1", "stages.0.augment.cutmix_alpha=1", "stages.0.augment.cutout_px=2"],
        output=tmp_path_factory.mktemp("runs"),
        name="grey",
        device="cpu",
        precision="fp32",
        quiet=True,
    )


def test_the_pixels_are_the_luma_of_the_colours(folder):
    images = load_images(open_dataset(folder, announce=False), GREY, cache=None)
    pixels = images.store.read(np.array([0]))
    expected = np.asarray(Image.open(folder / images.table.paths[0]).convert("L"))
    np.testing.assert_array_equal(pixels[0, :, :, 0], expected)
    mean, std = pixel_statistics(images.store, np.arange(len(images.table)), by_channel=True)
    whole = images.store.read(np.arange(len(images.table))) / 255
    assert len(set(mean)) == len(set(std)) == 1
    np.testing.assert_allclose((mean[0], std[0]), (whole.mean(), whole.std()), atol=1e-6)


def test_one_channel_of_a_view_equals_each_of_three():
    grey_BCHW = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    three_BCHW = grey_BCHW.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)
    colour = GREY.model_copy(update={"channels": 3})
    spec = AugmentSpec(rotation_degrees=20, cutout_px=3, horizontal_flip=True, brightness=(0.5, 1.5))
    index_B = np.arange(4)
    ones, threes = (
        Augmenter(spec, prepared, 0).train(x_BCHW, index_B, 0)
        for prepared, x_BCHW in ((GREY, grey_BCHW), (colour, three_BCHW))
    )
    assert ones.shape == (4, 1, 8, 8)
    for channel in range(3):
        torch.testing.assert_close(ones[:, 0], threes[:, channel])
    torch.testing.assert_close(evaluation_view(grey_BCHW, GREY)[:, 0], evaluation_view(three_BCHW, colour)[:, 2])


def test_a_run_learns_is_shipped_and_explained(run, folder):
    assert run.model.preprocessing.channels == 1
    assert next(run.model.parameters()).shape[1] == 1
    assert bundle.BundleConfig.read(run.path / "model" / "config.json").preprocessing.channels == 1
    assert run.results.validation.accuracy.value > 0.8
    predicted = run.predict(sorted((folder / "lit").glob("*.png")))
    assert predicted.count("lit") >= 20
    assert write_page(run.path).is_file()
    layer = default_layers(run.model)[0]
    (first, *_) = maximise(run.model, layer, [0], AscentSettings(steps=2))
    assert first.pixels_RHWC.shape[-1] == 3
    assert layer in map_layers(run.model).values()


def test_engines_agree_on_one_channel(run):
    pytest.importorskip("openvino")
    compute = Compute(torch.device("cpu"), "fp32")
    x_BCHW = torch.randn(3, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    theirs, ours = (
        next(built.run(iter([x_BCHW])))
        for built in (OpenVinoEngine(run.model.trunk, compute, GREY.size, 1), TorchEngine(run.model.trunk, compute))
    )
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_networks_of_timm_refuse_one_channel():
    from loupe.config.network import BackboneSpec
    from loupe.models.build import skeleton

    spec = BackboneSpec(backbone="resnet18", weights="none")
    with pytest.raises(ConfigError, match="3 channels"):
        skeleton(spec, GREY, ("a", "b"))


def test_means_that_differ_need_three_channels():
    with pytest.raises(ValidationError, match="equal"):
        Preprocessing(size_px=8, load_px=8, mean=(0.4, 0.5, 0.6), channels=1)
    assert Preprocessing.model_validate({"size_px": 8, "load_px": 8}).channels == 3
