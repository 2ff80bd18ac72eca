"""Networks of Loupe written for OpenVINO layer by layer: the logits of PyTorch, without its converter."""

import numpy as np
import pytest
import torch
from torch import nn

from loupe.config.network import CnnSpec, ConvBlock, Dense
from loupe.config.recipe import Preprocessing
from loupe.devices import Compute
from loupe.models import conversion
from loupe.models.cnn import cnn
from loupe.models.openvino_layers import written
from loupe.models.openvino_network import OpenVinoNetwork
from loupe.models.small_networks import deep_cnn
from loupe.models.torch_network import TorchNetwork

pytest.importorskip("openvino")

SHAPES = {"size_px": [15, 18], "load_px": [18, 21]}
SPECS = {
    "empty": CnnSpec(name="empty", blocks=()),
    "even kernel": CnnSpec(name="even", blocks=(ConvBlock(filters=(4,), kernel_px=2, dropout=0.3),)),
    "norm after each": CnnSpec(name="each", blocks=(ConvBlock(filters=(4, 5), norm="each"),)),
    "norm before the pool": CnnSpec(name="block", blocks=(ConvBlock(filters=(4, 5), activation="none", norm="block"),)),
    "whitened": CnnSpec(
        name="whitened",
        blocks=(ConvBlock(filters=(26, 6), activation="gelu", norm="each", norm_first=True, pool_after="first"),),
        whitening_px=2,
        pooling="max",
        init="identity",
    ),
    "average": CnnSpec(
        name="average",
        blocks=(ConvBlock(filters=(4,), padding="valid"), ConvBlock(filters=(6,), pool_px=1)),
        pooling="average",
        hidden=(Dense(units=7, dropout=0.5), Dense(units=5)),
    ),
}


def network(spec, **values):
    """Network in evaluation mode whose normalisations are not the identity."""
    colours = {"mean": (0.2, 0.4, 0.6), "std": (0.2, 0.3, 0.4)} if values.get("channels") != 1 else {"mean": (0.2,) * 3}
    preprocessing = Preprocessing(**{**SHAPES, **colours, **values})
    model = cnn(spec, preprocessing, ("a", "b", "c"), seed=0).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values_C in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                values_C.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_written_network_gives_the_logits_of_pytorch(name, channels, monkeypatch, tmp_path):
    model = network(SPECS[name], channels=channels)
    x_BHWC = np.random.default_rng(0).integers(0, 256, (5, 18, 21, channels), np.uint8)
    monkeypatch.setattr(conversion, "traced", None)
    converted = conversion.convert(model, SPECS[name], tmp_path)
    engines = OpenVinoNetwork(converted.files, "fp32"), TorchNetwork(model, Compute(torch.device("cpu"), "fp32"))
    assert engines[0].shapes == [f"[?,18,21,{channels}]", "[?,3]"]
    written_BK, wanted_BK = (next(iter(engine.run(iter([x_BHWC])))) for engine in engines)
    np.testing.assert_allclose(written_BK, wanted_BK, rtol=1e-4, atol=1e-5)
    converted.keep()
    assert not [*tmp_path.iterdir()]


def test_a_network_with_a_layer_that_is_not_known_is_left_to_the_converter(monkeypatch, tmp_path):
    model = network(deep_cnn(), size_px=32, load_px=32)
    assert written(model) is not None
    model.trunk[1].append(nn.Tanh())
    assert written(model) is None
    monkeypatch.setattr(conversion, "traced", lambda model, cache: cache)
    assert conversion.convert(model, deep_cnn(), tmp_path) == tmp_path
