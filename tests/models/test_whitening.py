"""The whitening layer: its filters make patches of training images uncorrelated, and stay as they are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import loupe
from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing, Recipe, Stage
from loupe.data.pixels.store import RawStore
from loupe.explain.feature_maps import map_layers
from loupe.models import bundle
from loupe.models.cnn import cnn
from loupe.models.openvino_import import core
from loupe.models.summary import count_parameters
from loupe.models.whitening import CHUNK_IMAGES, PatchStatistics, whiten

SPEC = CnnSpec(name="tiny", blocks=(ConvBlock(filters=(4,)),), whitening_px=2, pooling="max")
CLASSES = ("a", "b")


def sized(channels: int = 3, load_px: int = 10) -> Preprocessing:
    mean, std = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)) if channels == 3 else ((0.5,) * 3, (0.25,) * 3)
    return Preprocessing(size_px=10, load_px=load_px, mean=mean, std=std, channels=channels)


def smooth_images(count: int, channels: int = 3, side: int = 10) -> np.ndarray:
    """Images whose neighbouring pixels and channels are alike, as in photographs."""
    random = np.random.default_rng(0)
    wide = random.integers(0, 256, (count, side + 2, side + 2, channels + 1)).astype(float)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    both = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return ((both[..., :-1] + both[..., 1:]) / 18).astype(np.uint8)


def whitened(pixels: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """Filters of the layer for these images."""
    model = cnn(SPEC, preprocessing, CLASSES, seed=0)
    whiten(model, RawStore(pixels), np.arange(len(pixels)))
    return model.trunk.whitening.weight


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_have_unit_variance_and_no_correlation(channels):
    pixels, preprocessing = smooth_images(300, channels), sized(channels)
    weight = whitened(pixels, preprocessing)
    half = 4 * channels
    assert weight.shape == (2 * half, channels, 2, 2)
    assert torch.equal(weight[half:], -weight[:half])
    mean, std = (np.array(values[:channels]) for values in (preprocessing.mean, preprocessing.std))
    x_BCHW = torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    out = F.conv2d(x_BCHW, weight[:half]).permute(1, 0, 2, 3).flatten(1).double().numpy()
    covariance = np.cov(out)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.02
    assert np.all(np.diag(covariance) > 0.9) and np.all(np.diag(covariance) < 1.01)
    norms = weight[:half].flatten(1).norm(dim=1)
    assert torch.equal(norms, norms.sort().values), "the component with the largest variance comes first"


def test_filters_do_not_depend_on_the_order_of_the_images_or_on_other_images():
    pixels = smooth_images(CHUNK_IMAGES + 50)
    model = cnn(SPEC, sized(), CLASSES, seed=1)
    order = np.random.default_rng(1).permutation(len(pixels))
    whiten(model, RawStore(np.concatenate([pixels, 255 - pixels])), order)
    assert torch.equal(model.trunk.whitening.weight, whitened(pixels, sized()))


def test_patches_are_those_of_the_part_that_the_network_sees():
    pixels = smooth_images(40, side=16)
    inner = np.ascontiguousarray(pixels[:, 3:13, 3:13])
    assert torch.equal(whitened(pixels, sized(load_px=16)), whitened(inner, sized()))


def test_images_of_one_colour_give_finite_filters():
    assert whitened(np.full((5, 10, 10, 3), 255, np.uint8), sized()).isfinite().all()


def test_sums_are_exact_in_any_order():
    pixels, whole, parts = smooth_images(20), PatchStatistics(3, 3), PatchStatistics(3, 3)
    whole.add(pixels)
    for image in pixels[::-1]:
        parts.add(image[None])
    assert np.array_equal(whole.components(np.ones(3)), parts.components(np.ones(3)))


def test_the_filters_are_fixed_and_part_of_the_stored_network(tmp_path):
    model = cnn(SPEC, sized(), CLASSES, seed=0)
    whiten(model, RawStore(smooth_images(20)), np.arange(20))
    assert "trunk.whitening.weight" not in dict(model.named_parameters())
    assert count_parameters(model)["non_trainable"] == model.trunk.whitening.weight.numel() == 24 * 12
    assert "trunk.whitening" in map_layers(model)
    bundle.save(tmp_path, model, SPEC, "fp32")
    back, _ = bundle.load(tmp_path, torch.device("cpu"))
    assert torch.equal(back.trunk.whitening.weight, model.trunk.whitening.weight)
    x_BCHW = torch.rand(2, 3, 10, 10)
    assert torch.equal(back(x_BCHW), model.eval()(x_BCHW))


@pytest.mark.usefixtures("bare")
def test_a_run_computes_the_filters_from_its_training_images_and_keeps_them(tmp_path):
    """Two runs with other seeds, on the same training images, with averaged weights."""
    x, y = smooth_images(60), np.arange(60) % 2
    arrays = {"x_train": x[:40], "y_train": y[:40], "x_val": 255 - x[40:], "y_val": y[40:]}
    stage = Stage(epochs=2, batch_size=16, ema_decay=0.9, weight_decay=0.1, optimizer={"name": "muon"})
    recipe = Recipe(name="tiny", model=SPEC, stages=(stage,), precision="fp32")
    np.savez(tmp_path / "images.npz", **arrays)
    kept = []
    for seed in (0, 1):
        run = loupe.train(
            tmp_path / "images.npz", recipe=recipe, seed=seed, output=tmp_path, name=f"{seed}", quiet=True
        )
        network, _ = bundle.load(run.path / "model", torch.device("cpu"))
        own = cnn(SPEC, network.preprocessing, network.classes, seed=9)
        whiten(own, RawStore(x[:40]), np.arange(40))
        assert torch.equal(network.trunk.whitening.weight, own.trunk.whitening.weight)
        kept.append(network.head.logits.weight)
    assert not torch.equal(*kept)


@pytest.mark.slow
def test_openvino_gives_the_answers_of_pytorch(tmp_path):
    pytest.importorskip("openvino")
    from loupe.models.catalog import network
    from loupe.models.conversion import convert

    preprocessing = Preprocessing(size_px=32, load_px=32)
    spec = network("fast-cnn")
    model = cnn(spec, preprocessing, CLASSES, seed=0).eval()
    pixels = smooth_images(8, side=32)
    whiten(model, RawStore(pixels), np.arange(8))
    compiled = core().compile_model(convert(model, spec, tmp_path).network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    theirs = next(iter(compiled([pixels]).values()))
    with torch.no_grad():
        ours = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2)) / 255)
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * float(ours.abs().max()))
