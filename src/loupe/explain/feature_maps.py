"""Layers with spatial outputs, and the conversion of their outputs to feature maps [C, H, W].

Convolutions output maps. Inner layers of ConvNeXt and Swin output them with channels last, [H, W, C]. Vision
transformers output tokens [N, C]: class token and registers first, then the patches of a grid, row by row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isqrt
from typing import Any, Literal

import torch
from torch import Tensor

from loupe.config.size import Size
from loupe.errors import ConfigError, unknown_name
from loupe.models.blend import is_blend
from loupe.models.classifier import Classifier
from loupe.models.layers import TokenPool
from loupe.models.summary import layer_table

Shape = tuple[int, int, int]
Layout = Literal["map", "channels last", "tokens"]
# Names of attention modules. Their square outputs are queries by keys, not maps, and their batch may hold windows.
ATTENTION = {"attn", "attention"}


@dataclass(frozen=True)
class MapLayer:
    """Layer with a spatial output.

    Attributes:
        name: name of the module.
        shape: (C, H, W) of the map at the size of the network's input.
        layout: layout of the output after the batch dimension.
        prefix: number of tokens before the patch tokens.
    """

    name: str
    shape: Shape
    layout: Layout = "map"
    prefix: int = 0

    def as_map(self, output: Tensor) -> Tensor:
        """Output of the layer as [B, C, H, W], without prefix tokens."""
        if self.layout == "tokens":
            height, width = self.shape[1:]
            if height * width != output.shape[1] - self.prefix:  # of an input of another size, which is a square
                height = width = isqrt(output.shape[1] - self.prefix)
            output = output[:, self.prefix :].reshape(len(output), height, width, -1)
        return output if self.layout == "map" else output.permute(0, 3, 1, 2)

    def as_output(self, map_BCHW: Tensor, output: Tensor) -> Tensor:
        """Map in the layout of the layer's output; prefix tokens are those of `output`."""
        if self.layout == "map":
            return map_BCHW
        map_BHWC = map_BCHW.permute(0, 2, 3, 1)
        if self.layout == "channels last":
            return map_BHWC
        return torch.cat([output[:, : self.prefix], map_BHWC.flatten(1, 2)], dim=1)


def map_layers(model: Classifier) -> dict[str, MapLayer]:
    """Layers with spatial outputs by name, in the order of the forward pass.

    Outputs of 1 x 1 are not spatial. For a vision transformer, the blocks are among the layers. If its head reads only
    the class token, the patch tokens after the attention of the last block have no gradient. The last block is then
    left out, and the last layer is the output of the block before it.

    Raises:
        ConfigError: no layer has a spatial output, or the order of the tokens is unknown; or the network is a blend,
            whose members see the image apart.
    """
    if is_blend(model):
        raise ConfigError(
            "a blend of several networks has no feature map of its own. Explain the runs that it is made of, one by "
            "one, or train one of its networks alone."
        )
    pool = next((module for module in model.modules() if isinstance(module, TokenPool)), None)
    rows = layer_table(model, also=_blocks(model) if pool else ())
    if pool and not pool.reads_patches:
        last_block = f"trunk.{[*dict(model.trunk.named_children())][-1]}"
        rows = [row for row in rows if not f"{row['name']}.".startswith(f"{last_block}.")]
    size = model.preprocessing.size
    convolved = [row["output"][1:] for row in rows if row["type"] == "Conv2d"]
    grids = {height * width: (height, width) for height, width in convolved}
    layers = [_map_layer(row, pool, size, grids) for row in rows]
    last = max((number for number, layer in enumerate(layers) if layer), default=-1)
    if sum(_is_tokens(row["output"]) for row in rows[last + 1 :]) >= last + 1:
        raise ConfigError(
            "this network has no feature map before its head. Networks of Loupe and of timm's families efficientnet, "
            "mobilenet, resnet, vgg, convnext, swin and vit can be explained; other networks on tokens cannot."
        )
    return {layer.name: layer for layer in layers if layer}


def choose_layer(model: Classifier, name: str | None = None) -> MapLayer:
    """Layer of that name; by default the last layer with a spatial output.

    Raises:
        ConfigError: the name is unknown, or the network has no such layer.
    """
    known = map_layers(model)
    if name is not None and name not in known:
        raise unknown_name("layer", name, known)
    return known[name or list(known)[-1]]


def _blocks(model: Classifier) -> list[str]:
    """Blocks of the trunk, followed by the children of the last block."""
    names = [f"trunk.{name}" for name, _ in model.trunk.named_children()]
    return names + [f"{names[-1]}.{name}" for name, _ in model.trunk[-1].named_children()]


def _map_layer(
    row: dict[str, Any], pool: TokenPool | None, size: Size, grids: Mapping[int, tuple[int, int]]
) -> MapLayer | None:
    """Row of the layer table as a `MapLayer`; None without a spatial output.

    A shape that can be read both ways, such as one of three equal sizes, is read as channels first.

    Args:
        size: size of the network's input.
        grids: (H, W) of the maps of convolutions, by the number of their positions.
    """
    name, shape = row["name"], row["output"]
    if ATTENTION & set(name.split(".")):
        return None
    if len(shape) == 3:
        first, last = _mismatch(shape[1:], size), _mismatch(shape[:2], size)
        if first <= min(last, _allowed(size)):
            return MapLayer(name, (shape[0], shape[1], shape[2]))
        if last <= _allowed(size):
            return MapLayer(name, (shape[2], shape[0], shape[1]), "channels last")
    if len(shape) == 2 and pool:
        tokens = shape[0] - pool.prefix
        side = isqrt(max(tokens, 0))
        height, width = grids.get(tokens, (side, side))
        if tokens > 1 and height * width == tokens:
            return MapLayer(name, (shape[1], height, width), "tokens", pool.prefix)
    return None


def _mismatch(grid: Sequence[int], size: Size) -> float:
    """Positions by which a side of (H, W) differs from that of a map of the image; infinite for a single position."""
    height, width = grid
    if height * width <= 1:
        return inf
    return min(
        abs(width - height * size.width_px / size.height_px), abs(height - width * size.height_px / size.width_px)
    )


def _allowed(size: Size) -> int:
    """Largest mismatch of a map: convolutions and pooling round the two sides of a rectangle one by one."""
    return 0 if size.height_px == size.width_px else 2


def _is_tokens(shape: list[int]) -> bool:
    """True for the shape [N, C] of several tokens."""
    return len(shape) == 2 and shape[0] > 1
