"""Class activation maps and pictures of filters: against identities, constructed networks, and what must not change."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from loupe.augment.pixels import normalise
from loupe.config.network import BackboneSpec, CnnSpec, ConvBlock, Dense
from loupe.config.recipe import Preprocessing
from loupe.errors import LoupeError
from loupe.evaluate.predictions import Predictions
from loupe.explain import filters
from loupe.explain.cam import METHODS, class_maps, evidence
from loupe.explain.explanations import representative
from loupe.explain.feature_maps import choose_layer, map_layers
from loupe.models import cnn
from loupe.models.classifier import Classifier
from loupe.models.heads import head
from loupe.models.timm import backbones

SIDE = 12
SEEN = Preprocessing(size_px=SIDE, load_px=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
SPEC = CnnSpec(
    name="tiny",
    blocks=(ConvBlock(filters=(6, 8), norm="each"),),
    hidden=(Dense(units=9),),
    norm_momentum=0.1,
    init="he",
)


@pytest.fixture(scope="module")
def captum():
    return pytest.importorskip("captum.attr")


@pytest.fixture
def model() -> Classifier:
    """Without training: its maps and responses follow from its weights all the same."""
    made = cnn.cnn(SPEC, SEEN, ("cat", "dog", "frog"), seed=3)
    draws = torch.Generator().manual_seed(0)
    for norm in made.trunk.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5, generator=draws)
            norm.running_var.uniform_(0.5, 2, generator=draws)
    return made.eval()


def sized(size_px: int) -> Preprocessing:
    return Preprocessing(size_px=size_px, load_px=size_px)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def averaging() -> Classifier:
    """Global average pooling, then one linear layer: the network of Zhou et al. 2016."""
    spec = CnnSpec(name="cam", blocks=(ConvBlock(filters=(5, 7), pool_px=1),), pooling="average", init="he")
    return cnn.cnn(spec, SEEN, ("cat", "dog", "frog"), seed=1).eval()


class Masked(nn.Module):
    """Nothing passes but what lies in one quadrant."""

    def __init__(self, rows: slice, columns: slice) -> None:
        super().__init__()
        self.register_buffer("mask_HW", torch.zeros(SIDE, SIDE))
        self.mask_HW[rows, columns] = 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.mask_HW


@pytest.mark.parametrize("method", METHODS)
def test_after_average_pooling_the_map_is_that_of_zhou(captum, method):
    model, x, classes = averaging(), images(), torch.tensor([0, 1, 2])
    maps = class_maps(model, x, classes, choose_layer(model), method).numpy()
    features = model.trunk(x).detach().double().numpy()
    weights = model.head.logits.weight.detach().double().numpy()
    for found, k, map_CHW in zip(maps, classes, features, strict=True):
        cam = np.maximum(np.tensordot(weights[k], map_CHW, 1), 0)
        np.testing.assert_allclose(found, cam / cam.max(), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_before_others_that_work_in_place_is_explained_by_its_own_output(captum, model, method):
    """By hand, with the chain of layers cut open after the first convolution, whose ReLU works in place."""
    x, classes = images(2), torch.tensor([2, 0])
    block = model.trunk.block1
    own = block.conv1(x).detach().requires_grad_()
    logits = model.head(block[1:](own.clone()))
    (slope,) = torch.autograd.grad(logits[[0, 1], classes].sum(), own)
    weight = slope.mean(dim=(2, 3), keepdim=True) if method == "grad-cam" else slope
    expected = (weight * own).sum(dim=1).relu().detach().numpy()
    found = class_maps(model, x, classes, choose_layer(model, "trunk.block1.conv1"), method).numpy()
    np.testing.assert_allclose(found, expected / expected.max(axis=(1, 2), keepdims=True), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_as_large_as_the_image_and_from_0_to_1(captum, model, method):
    for layer in map_layers(model).values():
        maps = class_maps(model, images(), torch.tensor([0, 1, 2]), layer, method)
        assert maps.shape == (3, SIDE, SIDE) and maps.dtype == torch.float32
        assert maps.min() >= 0 and set(maps.amax(dim=(1, 2)).tolist()) <= {0.0, 1.0}


def test_where_nothing_speaks_for_a_class_its_map_is_empty(captum):
    model = averaging()
    with torch.no_grad():
        model.head.logits.weight[1] = -1.0
    empty = class_maps(model, images(1), torch.tensor([1]), choose_layer(model))
    assert not empty.any()
    assert evidence(empty[0].numpy()) is None


@pytest.mark.parametrize(("rows", "columns", "place"), [(slice(0, 4), slice(8, 12), "top right")])
@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_looks_at_one_corner_has_its_evidence_there(captum, method, rows, columns, place):
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    nn.init.uniform_(convolution.weight, 0, 1)
    trunk = nn.Sequential(nn.Sequential(convolution, Masked(rows, columns)))
    top = head("average", (), 4, 2).to_empty(device="cpu")
    nn.init.ones_(top.logits.weight)
    nn.init.zeros_(top.logits.bias)
    model = Classifier(trunk, top, SEEN, ("cat", "dog")).eval()
    (map_HW,) = class_maps(model, images(1), torch.tensor([0]), choose_layer(model), method).numpy()
    assert map_HW[rows, columns].sum() == map_HW.sum() > 0
    assert evidence(map_HW).region == place
    assert evidence(map_HW).half <= 0.5 * 16 / 144


def test_of_a_flattened_map_hirescam_keeps_to_the_places_that_count(captum):
    """Grad-CAM's mean gradient cannot: this is why the two differ."""
    model = cnn.cnn(SPEC.model_copy(update={"hidden": ()}), SEEN, ("cat", "dog"), seed=0).eval()
    side = SIDE // 2
    weight_HWC = torch.zeros(side, side, 8)
    weight_HWC[:3, :3] = 1.0
    with torch.no_grad():
        model.head.logits.weight[0] = weight_HWC.flatten()
    layer = choose_layer(model)
    exact, mean = (
        class_maps(model, images(1), torch.tensor([0]), layer, method)[0] for method in ("hires-cam", "grad-cam")
    )
    assert exact[8:, 8:].sum() == 0 < exact[:6, :6].sum()
    assert mean[8:, 8:].sum() > 0


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(captum, model, training):
    model.train(training)
    model.learn("head")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    class_maps(model, images(), torch.tensor([0, 1, 2]), choose_layer(model))
    list(filters.maximise(model, choose_layer(model, "trunk.block1.conv2"), [0, 1], filters.AscentSettings(steps=2)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [(module.training, len(module._forward_hooks)) for module in model.modules()] == state
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evidence_is_where_the_map_is():
    map_HW = np.zeros((6, 9), np.float32)
    map_HW[5, 1] = 1
    found = evidence(map_HW)
    assert (found.row, found.column, found.half) == (pytest.approx(5.5 / 6), pytest.approx(1.5 / 9), 1 / 54)
    assert found.region == "bottom left"
    even = evidence(np.ones((4, 4)))
    assert (even.row, even.column, even.half, even.region) == (0.5, 0.5, 0.5, "centre")


def test_layers_are_those_with_a_map_and_unknown_ones_are_refused_with_the_nearest(model):
    assert map_layers(model)["trunk.block1.conv2"].shape == (8, SIDE, SIDE)
    assert choose_layer(model).name == "trunk.block1.pool"
    with pytest.raises(LoupeError, match=r"unknown layer 'block1\.conv2'.*Did you mean trunk\.block1\.conv2"):
        choose_layer(model, "block1.conv2")
    with pytest.raises(LoupeError, match=r"head\.logits"):
        choose_layer(model, "head.logits")


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("test_efficientnet", "block5"),
        ("mobilenetv3_small_050", "block6"),
        ("resnet10t", "block4"),
        ("test_convnext", "block4"),
        ("test_byobnet", "block4"),
        ("test_nfnet", "block4"),
        ("dpn48b", "features"),
    ],
)
def test_convolutional_backbones_are_explained_by_their_last_map(captum, name, last):
    model = backbones.backbone(BackboneSpec(backbone=name, weights="none"), sized(64), ("cat", "dog"), 0).eval()
    layer = choose_layer(model)
    assert layer.name.startswith(f"trunk.{last}")
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = class_maps(model, x, torch.tensor([1]), layer)
    assert maps.shape == (1, 64, 64) and maps.isfinite().all()


def high_frequencies(pixels_HWC: np.ndarray) -> float:
    """The energy above half the highest frequency, in either direction."""
    power = np.abs(np.fft.fft2(pixels_HWC.astype(np.float64) / 255, axes=(0, 1))) ** 2
    high = np.abs(np.fft.fftfreq(len(pixels_HWC))) > 0.25
    return float(power[high[:, None] | high[None, :]].sum())


def test_climbing_raises_a_filters_response_and_regularisation_leaves_less_noise(model):
    ascent = filters.AscentSettings(steps=40)
    for response in filters.maximise(model, choose_layer(model, "trunk.block1.conv2"), range(4), ascent):
        others = images(50)
        ordinary = model.trunk.block1[:4](others)[:, response.filter].mean(dim=(1, 2))
        assert min(response.activation_R) > max(response.noise_activation, ordinary.max())
        free, decayed, blurred = (high_frequencies(pixels) for pixels in response.pixels_RHWC)
        assert decayed < free and blurred < free
        assert response.pixels_RHWC.shape == (3, SIDE, SIDE, 3) and response.pixels_RHWC.dtype == np.uint8


def test_the_response_is_that_of_the_layer_to_the_picture(model):
    layer = choose_layer(model, "trunk.block1.norm1")
    (response,) = filters.maximise(model, layer, [5], filters.AscentSettings(steps=3))
    x = normalise(torch.from_numpy(response.pixels_RHWC).permute(0, 3, 1, 2), SEEN.mean, SEEN.std)
    direct = model.trunk.block1[:3](x)[:, 5].mean(dim=(1, 2))
    np.testing.assert_allclose(response.activation_R, direct.detach().numpy(), atol=0.02)


def test_a_climb_depends_on_its_seed_alone_and_counts_its_steps(model):
    steps: list[int] = []
    ascent = filters.AscentSettings(steps=3)
    layer = choose_layer(model, "trunk.block1.conv2")
    together = list(filters.maximise(model, layer, [1, 2], ascent, lambda: steps.append(1)))
    (alone,) = filters.maximise(model, layer, [2], ascent)
    (other,) = filters.maximise(model, layer, [2], filters.AscentSettings(steps=3, seed=1))
    assert len(steps) == 6
    np.testing.assert_allclose(together[1].pixels_RHWC, alone.pixels_RHWC, atol=1)
    assert not np.array_equal(alone.pixels_RHWC, other.pixels_RHWC)


def test_the_default_layers_of_filters_are_convolutions(model):
    assert [layer.name for layer in filters.default_layers(model)] == ["trunk.block1.conv1", "trunk.block1.conv2"]


def test_missed_images_come_first_then_the_surest_of_each_class():
    probability = np.array([0.9, 0.6, 0.8, 0.7, 0.95, 0.55])
    predicted = np.array([0, 1, 0, 1, 0, 0])
    label = np.array([0, 1, 1, 1, 0, 1])
    logits = np.where(np.arange(2) == predicted[:, None], np.log(probability / (1 - probability))[:, None], 0)
    names = tuple("abcdef")
    said = Predictions(names, names, label, logits.astype(np.float32), ("cat", "dog"))
    chosen = {count: "".join(names[i] for i in representative(said, count)) for count in (1, 2, 4, 6, 9)}
    assert chosen == {1: "c", 2: "ce", 4: "cfed", 6: "cfedab", 9: "cfedab"}


def test_of_images_of_one_confidence_the_seed_decides_which_are_explained():
    classes = tuple(f"class {k:02}" for k in range(30))
    label = np.repeat(np.arange(30), 3)  # in the order of the classes, as a folder gives them
    content = tuple(f"{i:064x}" for i in range(90))
    said = Predictions(content, content, label, (100 * np.eye(30)[label]).astype(np.float32), classes)
    met = np.zeros(30, np.int64)
    for seed in range(100):
        chosen = label[representative(said, 12, seed)]
        assert len(set(chosen.tolist())) == 12, "each of another class"
        met[chosen] += 1
    low, high = binom.interval(1 - 1e-4 / 30, 100, 12 / 30)
    assert np.all((low <= met) & (met <= high))
