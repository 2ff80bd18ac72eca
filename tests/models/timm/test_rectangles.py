"""Networks of timm on images that are not square: those that take them, and the refusal of the others."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.config.size import Size, SizePx
from loupe.devices import Compute
from loupe.errors import ConfigError
from loupe.explain.feature_maps import choose_layer, map_layers
from loupe.models import bundle
from loupe.models.engine import OpenVinoEngine, TorchEngine, engine
from loupe.models.timm import backbones
from loupe.models.timm.chains import _Turned

TEN = tuple("0123456789")
SWIN = "swin_tiny_patch4_window7_224"


def sized(size_px: SizePx) -> Preprocessing:
    return Preprocessing(size_px=size_px, load_px=size_px)


def spec(name: str, weights: str = "none") -> BackboneSpec:
    return BackboneSpec(backbone=name, weights=weights)


@pytest.mark.parametrize(
    ("name", "size_px", "layer"),
    [
        ("test_resnet", (64, 96), ("map", (96, 2, 3))),
        ("test_vit", (96, 128), ("tokens", (64, 6, 8))),
        ("test_convnext", (96, 64), ("map", (64, 3, 2))),
        ("convnext_atto", (64, 160), ("map", (320, 2, 5))),
        (SWIN, (224, 320), ("channels last", (768, 7, 10))),
        (SWIN, 256, ("channels last", (768, 8, 8))),
        ("eva02_tiny_patch14_224", (224, 336), ("tokens", (192, 16, 24))),
        ("vit_small_patch16_dinov3", (224, 320), ("tokens", (384, 14, 20))),
    ],
)
def test_networks_that_take_rectangles_and_the_maps_of_their_last_layer(name, size_px, layer):
    model = backbones.skeleton(spec(name), sized(size_px), TEN)
    found = choose_layer(model)
    assert (found.layout, found.shape) == layer
    for known in map_layers(model).values():
        height, width = known.shape[1:]
        assert abs(width - height * Size.of(size_px).width_px / Size.of(size_px).height_px) <= 4, known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", SWIN, "eva02_tiny_patch14_224"])
def test_the_features_are_those_of_timms_own_network_of_that_size(name):
    size = (84, 112) if name.startswith("eva") else (96, 160) if name == SWIN else (64, 96)
    ours = backbones.backbone(spec(name), sized(size), TEN, seed=3).eval()
    option = {} if name == "test_resnet" else {"dynamic_img_size": True} if name == "test_vit" else {"img_size": size}
    torch.manual_seed(3)
    theirs = timm.create_model(name, num_classes=0, **option).eval()
    x_BCHW = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours.trunk(x_BCHW), theirs(x_BCHW), atol=1e-5, rtol=1e-5)


def test_positions_of_a_rotary_embedding_are_those_of_the_grid_and_not_of_a_square_of_as_many():
    """4 x 9 patches are as many as 6 x 6."""
    model = backbones.backbone(spec("eva02_tiny_patch14_224"), sized((56, 126)), TEN, seed=0).eval()
    [turned, *_] = [module for module in model.modules() if isinstance(module, _Turned)]
    assert turned.grid == (4, 9)
    torch.manual_seed(0)
    theirs = timm.create_model("eva02_tiny_patch14_224", num_classes=0, dynamic_img_size=True).eval()
    dynamic = backbones.assemble(spec("eva02_tiny_patch14_224"), theirs, sized((56, 126)), TEN).eval()
    x_BCHW = torch.randn(1, 3, 56, 126, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(dynamic.trunk(x_BCHW), theirs(x_BCHW), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "size_px"), [("test_vit", (100, 128)), ("nest_tiny", (224, 320))])
def test_networks_that_cannot_take_a_size_say_so_and_what_to_do(name, size_px):
    for build in (backbones.skeleton, lambda *given: backbones.backbone(*given, seed=0)):
        with pytest.raises(ConfigError) as refused:
            build(spec(name), sized(size_px), TEN)
        words = str(refused.value)
        assert name in words and str(Size.of(size_px)) in words and "input.size_px" in words and "\n" not in words


@pytest.mark.slow
def test_weights_of_a_file_are_read_for_another_size_or_refused(tmp_path):
    for name in (SWIN, "mixer_s32_224"):
        torch.manual_seed(1)
        save_file(timm.create_model(name, num_classes=0).state_dict(), tmp_path / f"{name}.safetensors")
    given = spec(SWIN, str(tmp_path / f"{SWIN}.safetensors"))
    model = backbones.backbone(given, sized((96, 160)), TEN, seed=0).eval()
    torch.manual_seed(1)
    theirs = timm.create_model(SWIN, num_classes=0).eval()
    own, wanted = model.trunk.state_dict(), theirs.state_dict()
    assert torch.equal(own["block1.blocks.0.mlp.fc1.weight"], wanted["layers.0.blocks.0.mlp.fc1.weight"])
    with pytest.raises(ConfigError, match="mixer_s32_224 cannot take images of 224 x 320 px"):
        backbones.backbone(
            spec("mixer_s32_224", str(tmp_path / "mixer_s32_224.safetensors")), sized((224, 320)), TEN, seed=0
        )


def test_a_bundle_of_a_network_that_was_built_for_its_size(tmp_path):
    network = spec("eva02_tiny_patch14_224")
    model = backbones.backbone(network, sized((56, 84)), TEN, seed=0).eval()
    bundle.save(tmp_path, model, network, "fp32")
    again, _ = bundle.load(tmp_path, torch.device("cpu"))
    assert again.preprocessing.size == Size(56, 84)
    x_BCHW = torch.randn(2, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(x_BCHW), model(x_BCHW))


def test_the_native_size_of_a_config_may_be_a_rectangle(tmp_path):
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"input_size": [3, 64, 96], "crop_pct": 0.8}}')
    found = backbones.preprocessing(spec("test_resnet", f"local-dir:{tmp_path}"))
    assert (found.size, found.load_size) == (Size(64, 96), Size(80, 120))


@pytest.mark.parametrize(("name", "apart"), [("test_resnet", 1e-4), ("test_vit", 2e-3)])
@pytest.mark.slow
def test_engines_agree_on_a_rectangle(name, apart):
    """They interpolate the positions of a vision transformer by other formulas, for squares too."""
    pytest.importorskip("openvino")
    model = backbones.backbone(spec(name), sized((32, 48)), TEN, seed=0).eval()
    compute = Compute(torch.device("cpu"), "fp32")
    x_BCHW = torch.randn(3, 3, 32, 48).contiguous(memory_format=torch.channels_last)
    built, reason = engine(model.trunk, compute, Size(32, 48))
    assert isinstance(built, OpenVinoEngine), reason
    theirs, ours = (next(one.run(iter([x_BCHW]))) for one in (built, TorchEngine(model.trunk, compute)))
    np.testing.assert_allclose(theirs, ours, atol=apart, rtol=0)
