"""Which layers of a network still hold places of the image, and how their outputs lie as maps [C, H, W].

Convolutions give maps. ConvNeXt's inner layers and Swin's give them with the channels last, [H, W, C]. A vision
transformer gives tokens [N, C]: the class token and the registers first, then the patches, row by row of a square.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor

from loupe.errors import ConfigError, unknown_name
from loupe.models.classifier import Classifier
from loupe.models.layers import TokenPool
from loupe.models.summary import layer_table

Shape = tuple[int, int, int]
Kind = Literal["map", "channels last", "tokens"]
# What timm and we call attention. In there a square is not a map but queries by keys, and a batch may be of windows.
ATTENTION = {"attn", "attention"}


@dataclass(frozen=True)
class MapLayer:
    """A layer whose output holds places.

    shape: [C, H, W] of the map, H and W equal. kind: how the output lies, which has the batch before it. prefix: how
    many tokens come before those of the patches.
    """

    name: str
    shape: Shape
    kind: Kind = "map"
    prefix: int = 0

    def as_map(self, output: Tensor) -> Tensor:
        """The layer's output as [B, C, H, W], without the tokens that have no place."""
        if self.kind == "tokens":
            side = isqrt(output.shape[1] - self.prefix)
            output = output[:, self.prefix :].reshape(len(output), side, side, -1)
        return output if self.kind == "map" else output.permute(0, 3, 1, 2)

    def as_output(self, map_BCHW: Tensor, output: Tensor) -> Tensor:
        """The map as the layer's output lies; tokens that have no place are those of `output`."""
        if self.kind == "map":
            return map_BCHW
        map_BHWC = map_BCHW.permute(0, 2, 3, 1)
        if self.kind == "channels last":
            return map_BHWC
        return torch.cat([output[:, : self.prefix], map_BHWC.flatten(1, 2)], dim=1)


def map_layers(model: Classifier) -> dict[str, MapLayer]:
    """The layers that hold places, by name, in the order of the forward pass.

    What is one pixel wide holds none. Of a vision transformer, the blocks are among the layers. Where it reads nothing
    but its class token in the end, the patches' tokens count for the last time as the input of the last block, whose
    attention carries them over: what comes after them there has no gradient. The last block is then left out, so that
    the last layer is the output of the block before.

    Raises:
        LoupeError: the network has none, or works on tokens that are not known to be patches in their order.
    """
    pool = next((module for module in model.modules() if isinstance(module, TokenPool)), None)
    rows = layer_table(model, also=_blocks(model) if pool else ())
    if pool and not pool.reads_patches:
        last_block = f"trunk.{[*dict(model.trunk.named_children())][-1]}"
        rows = [row for row in rows if not f"{row['name']}.".startswith(f"{last_block}.")]
    found = [_map_layer(row, pool) for row in rows]
    places = [number for number, layer in enumerate(found) if layer]
    last = places[-1] if places else -1
    if sum(_is_tokens(row["output"]) for row in rows[last + 1 :]) >= last + 1:
        raise ConfigError(
            "this network keeps no map of features up to its head, as convolutional networks and vision transformers "
            "do: those of Loupe and of timm's families efficientnet, mobilenet, resnet, vgg, convnext, swin, vit and "
            "their like can be explained; other networks that work on tokens cannot."
        )
    return {layer.name: layer for layer in found if layer}


def choose_layer(model: Classifier, name: str | None = None) -> MapLayer:
    """The layer of that name, or the last that holds places; LoupeError, with the nearest names, if unknown."""
    known = map_layers(model)
    if name is not None and name not in known:
        raise unknown_name("layer", name, known)
    return known[name or list(known)[-1]]


def _blocks(model: Classifier) -> list[str]:
    """The blocks of the trunk and, in order too, the parts of the last of them."""
    names = [f"trunk.{name}" for name, _ in model.trunk.named_children()]
    return names + [f"{names[-1]}.{name}" for name, _ in model.trunk[-1].named_children()]


def _map_layer(row: dict[str, Any], pool: TokenPool | None) -> MapLayer | None:
    """A row of the layer table as a layer that holds places; None where it holds none.

    Where all three are equal, the channels are taken to be first.
    """
    name, shape = row["name"], row["output"]
    if ATTENTION & set(name.split(".")):
        return None
    if len(shape) == 3 and shape[1] == shape[2] > 1:
        return MapLayer(name, (shape[0], shape[1], shape[2]))
    if len(shape) == 3 and shape[0] == shape[1] > 1:
        return MapLayer(name, (shape[2], shape[0], shape[1]), "channels last")
    if len(shape) == 2 and pool:
        side = isqrt(max(shape[0] - pool.prefix, 0))
        if side > 1 and side**2 == shape[0] - pool.prefix:
            return MapLayer(name, (shape[1], side, side), "tokens", pool.prefix)
    return None


def _is_tokens(shape: list[int]) -> bool:
    """[N, C]."""
    return len(shape) == 2 and shape[0] > 1
