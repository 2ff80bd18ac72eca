"""Networks of timm that run some of their modules in sequence, and the blocks that they are cut into there.

The stem is the network without these modules; the network's own head comes after them.
"""

import copy
from collections.abc import Iterator
from math import isqrt, prod
from typing import Any

from torch import Tensor, nn

from loupe.config.size import Size
from loupe.models.layers import TokenPool

Blocks = Iterator[tuple[str, nn.Module]]

# Modules that a network of a class runs in sequence, up to its last map: `|` ends a block, and each child of a module
# with `*` is a block. Classes by name, because not every supported version of timm has every class.
CHAINS = {
    "Beit": "blocks* norm",
    "CPUBone": "stages*",
    "ConvMixer": "blocks*",
    "CspNext": "stages*",
    "DLA": "level1 | level2 | level3 | level4 | level5",
    "DaVit": "stages* norm_pre",
    "EdgeNeXt": "stages* norm_pre",
    "EfficientFormer": "stages* norm",
    "EfficientFormerV2": "stages* norm",
    "EfficientVit": "stages*",
    "EfficientVitLarge": "stages*",
    "EfficientVitMsra": "stages*",
    "Eva": "blocks* norm",
    "FastVit": "stages* final_conv",
    "FasterNet": "stages*",
    "FocalNet": "layers* norm",
    "GhostNet": "blocks*",
    "GlobalContextVit": "stages*",
    "Hiera": "blocks*",
    "HighPerfGpuNet": "stages*",
    "IFormer": "stages*",
    "InceptionResnetV2": "mixed_5b repeat | mixed_6a repeat_1 | mixed_7a repeat_2 block8 conv2d_7b",
    "InceptionV3": "Mixed_5b Mixed_5c Mixed_5d | Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e | "
    "Mixed_7a Mixed_7b Mixed_7c",
    "InceptionV4": "features*",
    "LCNetV2": "stages*",
    "Levit": "stages*",
    "LevitDistilled": "stages*",
    "LowFormer": "stages*",
    "MambaOut": "stages*",
    "MaxxVit": "stages* norm",
    "MetaFormer": "stages*",
    "MetaNeXt": "stages*",
    "MlpMixer": "blocks* norm",
    "NextViT": "stages* norm",
    "NormFreeNet": "stages* final_conv final_act",
    "PyramidVisionTransformerV2": "stages*",
    "RDNet": "dense_stages* norm_pre",
    "RepGhostNet": "blocks*",
    "RepVit": "stages*",
    "ResNetV2": "stages* norm",
    "RexNet": "features*",
    "SENet": "layer1 | layer2 | layer3 | layer4",
    "SHViT": "stages*",
    "Sequencer2d": "stages* norm",
    "StarNet": "stages* norm",
    "SwiftFormer": "stages* norm",
    "SwinTransformer": "layers* norm",
    "SwinTransformerV2": "layers* norm",
    "SwinTransformerV2Cr": "stages*",
    "TResNet": "body*",
    "TinyVit": "stages*",
    "VisionTransformerDistilled": "blocks* norm",
    "VisionTransformerRelPos": "blocks* norm",
    "VovNet": "stages*",
    "Xception": "block1 | block2 | block3 | block4 | block5 | block6 | block7 | block8 | block9 | block10 | block11 | "
    "block12 conv3 bn3 act3 conv4 bn4 act4",
    "XceptionAligned": "blocks* act",
}


def is_chain(network: nn.Module) -> bool:
    """True if each part of the network needs only the output of the part before it.

    False if blocks of a transformer share a trained bias, or a rotation that is trained or random.
    """
    if type(network).__name__ not in CHAINS or not type(network).__module__.startswith("timm.models."):
        return False
    rope: Any = getattr(network, "rope", None)
    shares = any(getattr(network, name, None) is not None for name in ("rel_pos_bias", "shared_rel_pos"))
    return not (
        shares or (rope is not None and (getattr(rope, "aug_active", False) or any(True for _ in rope.parameters())))
    )


def chain(network: Any, own: bool, size: Size) -> Blocks:
    """Stem and blocks by name; the last block includes the network's own head, or the conversion to a map."""
    blocks = _blocks(network, CHAINS[type(network).__name__], size)
    children = dict(network.named_children())
    parts = CHAINS[type(network).__name__].replace("|", " ").replace("*", " ").split()
    first = list(children).index(parts[0])
    before = dict(list(children.items())[:first])
    after = {name: child for name, child in list(children.items())[first:] if name not in parts}
    if own:
        blocks[-1].append(_head(network, after))
    elif getattr(network, "output_fmt", "NCHW") == "NHWC":
        blocks[-1].append(_ChannelsFirst())
    stem = _with(network, before | {name: nn.Sequential() for name in parts})
    if any(True for _ in stem.parameters()):
        yield "stem", _Calls(stem, "forward_features")
    for number, block in enumerate(blocks, 1):
        yield f"block{number}", block[0] if len(block) == 1 else nn.Sequential(*block)


def _blocks(network: Any, parts: str, size: Size) -> list[list[nn.Module]]:
    """Modules of each block."""
    blocks: list[list[nn.Module]] = []
    for names in parts.split("|"):
        blocks.append([])
        for name in names.split():
            part = getattr(network, name.rstrip("*"))
            if name.endswith("*"):
                blocks[-1:] = [[_turned(block, network, size)] for block in part]
            else:
                blocks[-1].append(part)
    return blocks


def _turned(block: nn.Module, network: Any, size: Size) -> nn.Module:
    return block if getattr(network, "rope", None) is None else _Turned(block, network, size)


class _Turned(nn.Module):
    """Block of a transformer with a rotary embedding of the patches' positions; images of another size are square."""

    def __init__(self, block: nn.Module, network: Any, size: Size) -> None:
        super().__init__()
        self.block = block
        self.shared = (network.rope,)  # in a tuple, so that it is registered once, in the stem
        self.prefix = network.num_prefix_tokens
        self.grid = tuple(network.patch_embed.dynamic_feat_size(tuple(size)))  # rows and columns of patches
        self.any_size = network.dynamic_img_size or not hasattr(network.rope, "feat_shape")

    def forward(self, x_BNC: Tensor) -> Tensor:
        patches = x_BNC.shape[1] - self.prefix
        grid = self.grid if prod(self.grid) == patches else (isqrt(patches),) * 2
        [rope] = self.shared
        rope = rope.get_embed(shape=grid) if self.any_size else rope.get_embed()
        output_BNC: Tensor = self.block(x_BNC, rope=rope)
        return output_BNC


def _with(network: nn.Module, children: dict[str, nn.Module]) -> nn.Module:
    """Copy of the network with these children in place of its own; the network itself does not change."""
    other = copy.copy(network)
    other.__dict__ = {
        name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(network).items()
    }
    other._modules = dict(children)
    return other


def _head(network: nn.Module, children: dict[str, nn.Module]) -> nn.Module:
    """Network without its blocks, applied to the last feature map or tokens, without the stem's own parameters."""
    head = _with(network, children)
    head._parameters, head._buffers = {}, {}
    return _TokenHead(head) if hasattr(network, "num_prefix_tokens") else _Calls(head, "forward_head")


class _Calls(nn.Module):
    """Module that calls one method of a network."""

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = getattr(self.network, self.method)(x)
        return output


class _TokenHead(TokenPool):
    """Head of a vision transformer."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.prefix = network.num_prefix_tokens
        self.reads_patches = network.global_pool != "token" or getattr(network, "attn_pool", None) is not None

    def forward(self, x_BNC: Tensor) -> Tensor:
        pooled_BC: Tensor = self.network.forward_head(x_BNC)
        return pooled_BC


class _ChannelsFirst(nn.Module):
    """Permutation of [B, H, W, C] to [B, C, H, W]."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return x_BHWC.permute(0, 3, 1, 2)
