"""Maps and filters of networks without [C, H, W]: vision transformers' tokens, and channels that come last.

References are gradients taken with torch.autograd, with the trunk cut open by hand at the layer in question.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.config.size import Size
from loupe.errors import LoupeError
from loupe.explain import filters
from loupe.explain.cam import METHODS, class_maps
from loupe.explain.feature_maps import MapLayer, choose_layer, map_layers
from loupe.models.classifier import Classifier
from loupe.models.timm import backbones

SIDE = 96  # 6 x 6 patches of 16 px


def network(name: str, size_px: int = SIDE) -> Classifier:
    sizes = Preprocessing(size_px=size_px, load_px=size_px)
    return backbones.backbone(BackboneSpec(backbone=name, weights="none"), sizes, ("cat", "dog", "frog"), seed=0).eval()


def abstract(name: str, size_px: int) -> Classifier:
    sizes = Preprocessing(size_px=size_px, load_px=size_px)
    return backbones.skeleton(BackboneSpec(backbone=name, weights="none"), sizes, ("cat", "dog"))


@pytest.fixture(scope="module")
def captum():
    return pytest.importorskip("captum.attr")


@pytest.fixture(scope="module")
def class_token() -> Classifier:
    return network("test_vit")


@pytest.fixture(scope="module")
def averaging() -> Classifier:
    return network("test_vit2")


def images() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def every_class() -> tuple[Tensor, Tensor]:
    """Each image with each class: untrained, a network may have nothing that speaks for one."""
    return images().repeat(3, 1, 1, 1), torch.arange(3).repeat_interleave(2)


def gradient(model: Classifier, x_BNC: Tensor, rest: nn.Module, class_B: Tensor) -> Tensor:
    x_BNC.requires_grad_()
    logits_BK = model.head(rest(x_BNC))
    (slope_BNC,) = torch.autograd.grad(logits_BK[torch.arange(len(x_BNC)), class_B].sum(), x_BNC)
    return slope_BNC


def by_hand(tokens_BNC: Tensor, slope_BNC: Tensor, prefix: int, method: str) -> Tensor:
    """The map of patches that lie row by row, enlarged and scaled."""
    weight_BNC = slope_BNC[:, prefix:]
    if method == "grad-cam":
        weight_BNC = weight_BNC.mean(dim=1, keepdim=True)
    raw_BN = (weight_BNC * tokens_BNC[:, prefix:]).sum(dim=2).relu().detach()
    side = SIDE // 16
    raw_B1HW = torch.stack([torch.stack([row[r * side : (r + 1) * side] for r in range(side)]) for row in raw_BN])[
        :, None
    ]
    fine_BHW = F.interpolate(raw_B1HW, (SIDE, SIDE), mode="bilinear")[:, 0]
    peak_B11 = fine_BHW.amax(dim=(1, 2), keepdim=True)
    assert (peak_B11 > 0).sum() >= 2, "maps to compare"
    return torch.nan_to_num(fine_BHW / peak_B11)


@pytest.mark.parametrize("method", METHODS)
def test_with_a_class_token_the_map_is_of_what_the_last_block_reads(captum, class_token, method):
    x, classes = every_class()
    tokens = class_token.trunk[:-1](x).detach()
    slope = gradient(class_token, tokens, class_token.trunk[-1], classes)
    found = class_maps(class_token, x, classes, choose_layer(class_token), method)
    torch.testing.assert_close(found, by_hand(tokens, slope, 1, method), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_with_average_pooling_the_map_is_of_the_last_tokens(captum, averaging, method):
    """The network has a register, which has no place, and no class token."""
    x, classes = every_class()
    tokens = averaging.trunk[-1][:2](averaging.trunk[:-1](x)).detach()
    slope = gradient(averaging, tokens, averaging.trunk[-1][2:], classes)
    found = class_maps(averaging, x, classes, choose_layer(averaging), method)
    torch.testing.assert_close(found, by_hand(tokens, slope, 1, method), atol=1e-4, rtol=0)
    assert slope[:, 1:].abs().amin() > 0


def test_after_the_last_attention_the_class_token_alone_counts_so_those_layers_are_no_maps(class_token):
    """Why the last block's output cannot be the default: its patches have no gradient at all."""
    after = class_token.trunk[-1][0](class_token.trunk[:-1](images())).detach()
    slope = gradient(class_token, after, class_token.trunk[-1][1:], torch.tensor([0, 1]))
    assert slope[:, 0].abs().sum() > 0 and not slope[:, 1:].any()
    assert choose_layer(class_token).name == "trunk.block5"
    assert not any(name.startswith("trunk.block6") for name in map_layers(class_token))


def test_blocks_and_layers_are_maps_of_the_patches_and_what_is_inside_attention_is_not(class_token, averaging):
    known = map_layers(class_token)
    assert known["trunk.block2"] == MapLayer("trunk.block2", (64, 6, 6), "tokens", prefix=1)
    assert known["trunk.block2.mlp.fc1"].shape == (192, 6, 6)
    assert known["trunk.stem.network.patch_embed.proj"].layout == "map"
    assert not any(".attn." in name for name in known)
    assert choose_layer(averaging).name == "trunk.block8.1"
    with pytest.raises(LoupeError, match=r"trunk\.block6.*Did you mean trunk\.block"):
        choose_layer(class_token, "trunk.block6")


@pytest.mark.parametrize(
    ("name", "last", "prefix"),
    [
        ("test_vit3", "trunk.block9.1", 1),
        ("vit_base_patch14_reg4_dinov2", "trunk.block11", 5),
    ],
)
def test_the_last_layer_that_holds_places_by_pooling(name, last, prefix):
    layer = choose_layer(abstract(name, 224))
    assert (layer.name, layer.prefix) == (last, prefix)


@pytest.mark.parametrize("kind", ["map", "channels last", "tokens"])
def test_a_map_and_the_output_that_it_is_of_give_each_other_back(kind):
    shapes = {"map": (2, 5, 3, 3), "channels last": (2, 3, 3, 5), "tokens": (2, 2 + 9, 5)}
    output = torch.rand(shapes[kind])
    layer = MapLayer("any", (5, 3, 3), kind, prefix=2 if kind == "tokens" else 0)
    map_BCHW = layer.as_map(output)
    place = output[1, :, 2, 1] if kind == "map" else output[1, 2, 1] if kind == "channels last" else output[1, 2 + 7]
    assert map_BCHW.shape == (2, 5, 3, 3) and torch.equal(map_BCHW[1, :, 2, 1], place)
    assert torch.equal(layer.as_output(map_BCHW, output), output)


@pytest.mark.parametrize("method", METHODS)
def test_inner_layers_of_convnext_have_their_channels_last(captum, method):
    model = network("test_convnext")
    layer = choose_layer(model, "trunk.block3.blocks.1.mlp.fc2")
    assert (layer.layout, layer.shape) == ("channels last", (48, 6, 6))
    x, classes = every_class()
    kept: list[Tensor] = []
    hook = model.get_submodule(layer.name).register_forward_hook(lambda *arguments: kept.append(arguments[2]))
    logits = model(x)
    hook.remove()
    (slope,) = torch.autograd.grad(logits[torch.arange(len(x)), classes].sum(), kept[0])
    found = class_maps(model, x, classes, layer, method)
    torch.testing.assert_close(found, by_hand(kept[0].flatten(1, 2), slope.flatten(1, 2), 0, method), atol=1e-4, rtol=0)


def test_swin_is_explained_by_its_last_norm_and_what_works_on_tokens_without_known_places_is_refused():
    layer = choose_layer(abstract("swin_tiny_patch4_window7_224", 224))
    assert (layer.name, layer.layout, layer.shape) == ("trunk.block4.1", "channels last", (768, 7, 7))
    with pytest.raises(LoupeError, match=r"efficientnet.*tokens cannot"):
        map_layers(abstract("mixer_s32_224", 224))


def test_a_channel_of_tokens_responds_by_its_mean_over_the_patches(class_token):
    layer = choose_layer(class_token, "trunk.block1")
    x, channel = images(), torch.tensor([3, 60])
    found = filters.mean_activation(class_token, layer, x, channel)
    tokens = class_token.trunk[:2](filters.normalised(x, class_token.preprocessing))
    expected = torch.stack([tokens[0, 1:, 3].mean(), tokens[1, 1:, 60].mean()])
    torch.testing.assert_close(found, expected)
    assert [each.name for each in filters.default_layers(class_token)] == ["trunk.stem.network.patch_embed.proj"]


@pytest.mark.parametrize(
    ("name", "own_px", "size_px"),
    [("test_vit", 160, 96), ("vit_small_patch14_dinov2", 224, 224), ("swin_tiny_patch4_window7_224", 224, 224)],
)
def test_pictures_of_filters_have_a_size_that_the_network_takes(name, own_px, size_px):
    assert filters.size_of_images(abstract(name, own_px)) == Size.of(size_px)
