"""Small networks for OpenVINO, written layer by layer: hundredths of a second, where tracing takes tenths.

The converter of PyTorch networks has to be loaded and traces each layer; it is for layers that are not known here.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from loupe.config.recipe import Preprocessing
from loupe.models.classifier import Classifier
from loupe.models.layers import AveragePool, Dropout, Flatten, MaxPool
from loupe.models.openvino_import import openvino
from loupe.models.whitening import Whitening

Write = Callable[[Any, Any, Any], Any]  # operations, layer, its input: its output


def written(model: Classifier) -> Any | None:
    """OpenVINO's model of a network in evaluation mode, from decoded pixels to logits; None if a layer is unknown."""
    layers = [*_layers(model.trunk), *_layers(model.head)]
    if not {type(layer) for layer in layers} <= LAYERS.keys():
        return None
    ov = openvino()
    ops = ov.opset13
    shape = (-1, *model.preprocessing.load_size, model.preprocessing.channels)
    pixels = ops.parameter(ov.PartialShape(shape), np.uint8)
    output = _preprocessed(ops, pixels, model.preprocessing)
    for layer in layers:
        output = LAYERS[type(layer)](ops, layer, output)
    return ov.Model([ops.result(output)], [pixels], "classifier")


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Layers in the order of the forward pass."""
    if type(module) is not nn.Sequential:
        yield module
        return
    for child in module:
        yield from _layers(child)


def _preprocessed(ops: Any, pixels: Any, preprocessing: Preprocessing) -> Any:
    """Normalised centre crop, as `augment.pipeline.evaluation_view` computes it."""
    rows, columns = preprocessing.size.centred_in(preprocessing.load_size)
    starts, stops = _ints(rows.start, columns.start), _ints(rows.stop, columns.stop)
    crop = ops.slice(pixels, starts, stops, _ints(1, 1), _ints(1, 2))
    mean, std = (np.array(values[: preprocessing.channels]) for values in (preprocessing.mean, preprocessing.std))
    scaled = ops.multiply(ops.convert(crop, np.float32), np.float32(1 / (255 * std)))
    return ops.transpose(ops.add(scaled, np.float32(-mean / std)), _ints(0, 3, 1, 2))


def _convolution(ops: Any, layer: nn.Conv2d, x: Any) -> Any:
    around = list(layer.padding)
    output = ops.convolution(x, _values(layer.weight), list(layer.stride), around, around, list(layer.dilation))
    return output if layer.bias is None else ops.add(output, _values(layer.bias)[:, None, None])


def _whitening(ops: Any, layer: Whitening, x: Any) -> Any:
    return ops.gelu(ops.convolution(x, _values(layer.weight), [1, 1], [0, 0], [0, 0], [1, 1]), "erf")


def _normalisation(ops: Any, layer: nn.BatchNorm2d, x: Any) -> Any:
    values = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    return ops.batch_norm_inference(x, *map(_values, values), layer.eps)


def _maximum(ops: Any, layer: nn.MaxPool2d, x: Any) -> Any:
    side, none = [layer.kernel_size] * 2, [0, 0]
    return ops.max_pool(x, side, [1, 1], none, none, side).output(0)


def _padding(ops: Any, layer: nn.ZeroPad2d, x: Any) -> Any:
    left, right, top, bottom = layer.padding
    return ops.pad(x, _ints(0, 0, top, left), _ints(0, 0, bottom, right), "constant", np.float32(0))


def _flattened(ops: Any, layer: Flatten, x: Any) -> Any:
    return ops.reshape(ops.transpose(x, _ints(0, 2, 3, 1)), _ints(0, -1), special_zero=True)


def _linear(ops: Any, layer: nn.Linear, x: Any) -> Any:
    return ops.add(ops.matmul(x, _values(layer.weight), False, True), _values(layer.bias))


def _values(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


LAYERS: dict[type[nn.Module], Write] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _normalisation,
    Whitening: _whitening,
    nn.GELU: lambda ops, layer, x: ops.gelu(x, "erf"),
    nn.ReLU: lambda ops, layer, x: ops.relu(x),
    nn.MaxPool2d: _maximum,
    nn.ZeroPad2d: _padding,
    nn.Linear: _linear,
    Flatten: _flattened,
    AveragePool: lambda ops, layer, x: ops.reduce_mean(x, _ints(2, 3)),
    MaxPool: lambda ops, layer, x: ops.reduce_max(x, _ints(2, 3)),
    Dropout: lambda ops, layer, x: x,
}
"""Layers as `models.cnn` builds them: no grouped convolutions, no overlapping pools."""
