"""Families of timm's networks, cut into blocks.

Run in sequence, the blocks give exactly the output of the network: their layers are those of the network. A family
that is neither here nor in chains.py is one block: its parts exchange more than one tensor, share weights, or use an
earlier output twice. Importing this module takes seconds, as timm does.
"""

from collections.abc import Callable, Iterable
from typing import Any

from timm.layers.pool1d import global_pool_nlc
from timm.models import EfficientNet, MobileNetV3, ResNet, VisionTransformer
from timm.models.byobnet import ByobNet
from timm.models.convnext import ConvNeXt
from timm.models.cspnet import CspNet
from timm.models.densenet import DenseNet
from timm.models.regnet import RegNet
from timm.models.vgg import VGG
from torch import Tensor, nn

from loupe.config.size import Size
from loupe.models.layers import TokenPool
from loupe.models.timm.chains import Blocks, chain, is_chain


def blocks_of(network: nn.Module, pooling: str, size: Size) -> Blocks:
    """Blocks by name that, run in sequence, compute the features of images of a size, or the last map."""
    for family, blocks in FAMILIES.items():
        if type(network) is family:
            yield from blocks(network, pooling == "own")
            return
    if is_chain(network):
        yield from chain(network, pooling == "own", size)
        return
    yield "features", network if pooling == "own" else _Map(network)


class _Map(nn.Module):
    """Network without its head: its output is its last feature map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        output: Tensor = self.network.forward_features(x_BCHW)  # type: ignore[operator]
        channels_last = output.ndim == 4 and getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        return output.permute(0, 3, 1, 2) if channels_last else output


def _efficientnet(network: Any, own: bool) -> Blocks:
    yield "stem", nn.Sequential(network.conv_stem, network.bn1)
    *stages, last = network.blocks
    yield from _numbered(stages)
    top = [network.global_pool] if own else []
    yield f"block{len(stages) + 1}", nn.Sequential(last, network.conv_head, network.bn2, *top)


def _mobilenetv3(network: Any, own: bool) -> Blocks:
    yield "stem", nn.Sequential(network.conv_stem, network.bn1)
    *stages, last = network.blocks
    yield from _numbered(stages)
    top = [network.global_pool, network.conv_head, network.norm_head, network.act2, network.flatten] if own else []
    yield f"block{len(stages) + 1}", nn.Sequential(last, *top)


def _resnet(network: Any, own: bool) -> Blocks:
    yield "stem", nn.Sequential(network.conv1, network.bn1, network.act1, network.maxpool)
    yield from _numbered([network.layer1, network.layer2, network.layer3])
    yield "block4", nn.Sequential(network.layer4, *([network.global_pool] if own else []))


def _vgg(network: Any, own: bool) -> Blocks:
    """Blocks of VGG: each ends with a max-pool; the last includes the two wide layers if they are used."""
    blocks: list[list[nn.Module]] = [[]]
    for layer in network.features:
        blocks[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
    *blocks, rest = blocks
    blocks[-1] += rest + ([network.pre_logits, network.head] if own else [])
    yield from _numbered([nn.Sequential(*block) for block in blocks])


def _staged(network: Any, stages: Iterable[nn.Module], own: bool, *end: nn.Module) -> Blocks:
    """A stem, stages, what comes after the last of them, and the network's own head."""
    *stages, last = stages
    yield "stem", network.stem
    yield from _numbered(stages)
    yield f"block{len(stages) + 1}", nn.Sequential(last, *end, *([network.head] if own else []))


def _convnext(network: Any, own: bool) -> Blocks:
    return _staged(network, network.stages, own, network.norm_pre)


def _cspnet(network: Any, own: bool) -> Blocks:
    return _staged(network, network.stages, own)


def _byobnet(network: Any, own: bool) -> Blocks:
    """Blocks of timm's ByobNet (RepVGG, MobileOne and CLIP's ResNets among others)."""
    return _staged(network, network.stages, own, network.final_conv)


def _regnet(network: Any, own: bool) -> Blocks:
    return _staged(network, [network.s1, network.s2, network.s3, network.s4], own, network.final_conv)


def _densenet(network: Any, own: bool) -> Blocks:
    """Blocks of DenseNet: a dense block with the transition after it; the last has the final norm in its place."""
    blocks: list[list[nn.Module]] = [[]]
    for name, layer in network.features.named_children():
        if name.startswith("denseblock"):
            blocks.append([])
        blocks[-1].append(layer)
    stem, *stages = blocks
    if own:
        stages[-1].append(network.global_pool)
    yield "stem", nn.Sequential(*stem)
    yield from _numbered([nn.Sequential(*stage) for stage in stages])


def _vit(network: Any, own: bool) -> Blocks:
    """Blocks of a vision transformer: embedding, blocks; the last includes the norm and the pooling of tokens."""
    *blocks, last = network.blocks
    top = [network.norm, _Tokens(network), network.fc_norm] if own else [network.norm]
    # Without blocks and norms, the network is the embedding of patches and positions.
    network.blocks, network.norm, network.fc_norm = nn.Sequential(), nn.Identity(), nn.Identity()
    network.attn_pool = None
    yield "stem", _Map(network)
    yield from _numbered(blocks)
    yield f"block{len(blocks) + 1}", nn.Sequential(last, *top)


class _Tokens(TokenPool):
    """Pooling of tokens that the vision transformer was trained with."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.attention = network.attn_pool
        self.kind = network.global_pool
        self.prefix = network.num_prefix_tokens
        self.include_prefix = network.pool_include_prefix
        self.reads_patches = self.attention is not None or self.kind != "token"

    def forward(self, x_BNC: Tensor) -> Tensor:
        pooled_BC: Tensor
        if self.attention is not None:
            pooled_BC = self.attention(x_BNC if self.include_prefix else x_BNC[:, self.prefix :])
            return pooled_BC
        pooled_BC = global_pool_nlc(
            x_BNC, pool_type=self.kind, num_prefix_tokens=self.prefix, reduce_include_prefix=self.include_prefix
        )
        return pooled_BC


def _numbered(blocks: list[nn.Module]) -> Blocks:
    yield from ((f"block{number}", block) for number, block in enumerate(blocks, 1))


FAMILIES: dict[type[nn.Module], Callable[[Any, bool], Blocks]] = {
    EfficientNet: _efficientnet,
    MobileNetV3: _mobilenetv3,
    ResNet: _resnet,
    VGG: _vgg,
    ConvNeXt: _convnext,
    CspNet: _cspnet,
    ByobNet: _byobnet,
    RegNet: _regnet,
    DenseNet: _densenet,
    VisionTransformer: _vit,
}
