"""Small convolutional networks: one builder, and named specs for it."""

from collections import OrderedDict

import torch
from torch import nn

from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.config.size import Size
from loupe.errors import ConfigError
from loupe.models.classifier import Classifier
from loupe.models.heads import head
from loupe.models.layers import Dropout
from loupe.models.whitening import Whitening


def cnn(spec: CnnSpec, preprocessing: Preprocessing, classes: tuple[str, ...], seed: int) -> Classifier:
    """Build the network, channels-last on the CPU, with initial weights that depend on `seed` alone.

    Raises:
        ConfigError: the images are too small for so many blocks.
    """
    model = skeleton(spec, preprocessing, classes)
    _allocate(model)
    initialise(model, spec, torch.Generator().manual_seed(seed % 2**63))
    return model.to(memory_format=torch.channels_last)


def skeleton(spec: CnnSpec, preprocessing: Preprocessing, classes: tuple[str, ...]) -> Classifier:
    """Build the network without memory for its weights (on PyTorch's meta device), to count and list its layers."""
    sides = preprocessing.size
    channels: int = preprocessing.channels
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.device("meta"):
        if spec.whitening_px:
            blocks["whitening"] = whitening = Whitening(channels, spec.whitening_px)
            channels, sides = whitening.filters, Size(*(side - spec.whitening_px + 1 for side in sides))
        for number, block in enumerate(spec.blocks, 1):
            blocks[f"block{number}"] = _block(block, channels, spec)
            sides = Size(*(_side_after(block, side) for side in sides))
            channels = block.filters[-1] if block.filters else channels
            if min(sides) < 1:
                raise ConfigError(
                    f"{spec.name}: images of {preprocessing.size} px are too small for block {number}. "
                    "Use larger images (--set input.size_px=...) or a network with fewer blocks (--model)."
                )
        width = channels * sides.area_px if spec.pooling == "flatten" else channels
        top = head(spec.pooling, spec.hidden, width, len(classes))
        return Classifier(nn.Sequential(blocks), top, preprocessing, classes)


def _allocate(model: nn.Module) -> None:
    """Give the weights memory on the CPU, as `to_empty` does, which loads PyTorch's symbolic shapes for a second."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            memory = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(memory, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _block(block: ConvBlock, channels: int, spec: CnnSpec) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, filters in enumerate(block.filters, 1):
        last = number == len(block.filters)
        has_norm = block.norm == "each" or (block.norm == "block" and last)
        pools = block.pool_px > 1 and number == (1 if block.pool_after == "first" else len(block.filters))
        _add_convolution(layers, block, number, channels, filters, bias=not (has_norm and block.norm_first))
        activation = _activation(block, number)
        pool: dict[str, nn.Module] = {"pool": nn.MaxPool2d(block.pool_px)} if pools else {}
        norm: dict[str, nn.Module] = {}
        if has_norm:
            norm[f"norm{number}"] = nn.BatchNorm2d(filters, eps=spec.norm_epsilon, momentum=spec.norm_momentum)
        if block.norm_first:
            layers |= {**pool, **norm, **activation}
        elif has_norm or block.activation == "gelu":
            layers |= {**activation, **norm, **pool}
        else:
            # ReLU and max-pool can be exchanged; pooling first leaves ReLU a quarter of the work.
            layers |= {**pool, **activation}
        channels = filters
    if block.dropout:
        layers["dropout"] = Dropout(block.dropout)
    return nn.Sequential(layers)


def _activation(block: ConvBlock, number: int) -> dict[str, nn.Module]:
    if block.activation == "none":
        return {}
    return {f"gelu{number}": nn.GELU()} if block.activation == "gelu" else {f"relu{number}": nn.ReLU(inplace=True)}


def _add_convolution(
    layers: OrderedDict[str, nn.Module], block: ConvBlock, number: int, channels: int, filters: int, *, bias: bool
) -> None:
    padding = block.kernel_px // 2 if block.padding == "same" else 0
    if block.padding == "same" and block.kernel_px % 2 == 0:
        before = block.kernel_px // 2 - 1  # TensorFlow's rule: the odd pixel goes to the right and below
        layers[f"pad{number}"] = nn.ZeroPad2d((before, before + 1, before, before + 1))
        padding = 0
    layers[f"conv{number}"] = nn.Conv2d(channels, filters, block.kernel_px, padding=padding, bias=bias)


def _side_after(block: ConvBlock, side: int) -> int:
    shrink = block.kernel_px - 1 if block.padding == "valid" else 0
    if block.pool_after == "first":
        return (side - shrink) // block.pool_px - shrink * (len(block.filters) - 1)
    return (side - shrink * len(block.filters)) // block.pool_px


def initialise(model: nn.Module, spec: CnnSpec, generator: torch.Generator) -> None:
    """Sets every weight, in the order of the layers. Biases are 0, norms the identity, whitening passes pixels on."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, Whitening):
            module.reset()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if spec.init == "glorot":
                nn.init.xavier_uniform_(module.weight, generator=generator)
            elif spec.init == "uniform":
                nn.init.uniform_(module.weight, -0.05, 0.05, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if spec.init == "identity" and isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight[: module.in_channels])
            if module.bias is not None:
                nn.init.zeros_(module.bias)
