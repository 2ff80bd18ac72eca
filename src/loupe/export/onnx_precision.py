"""ONNX files in lower precision: the network in 16-bit floats or 8-bit integers, the resizing as it was.

Of the nodes, only those of the network are changed, so that the pixels stay exact. (The conversion to 16 bits of ONNX
Runtime has a list of nodes to leave out, and yet passes the values between them through 16 bits.) 8-bit integers are
those of ONNX Runtime's static quantisation: scales of weights for each channel, scales of activations from the range
that they have on calibration images.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loupe.data.pixels.decode import UInt8Array
from loupe.errors import ConfigError
from loupe.export.onnx_file import INPUT, INSTALL, OUTPUTS

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
KEPT = frozenset({"Resize", "Softmax"})
"""Operations of the network that stay in 32 bits."""
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Metadata by which ONNX Runtime knows that the file is optimised, as that of PyTorch's exporter is."""


def in_fp16(file: bytes) -> bytes:
    """The file with weights and operations of its network in 16-bit floats.

    Raises:
        ConfigError: the packages of the extra `export` are missing.
    """
    onnx = _packages()
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(file))
    graph = model.graph
    floats = {
        value.name
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    weights = {weight.name: weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT}
    network = {node.name for node in graph.node if node.op_type not in KEPT} & _network(graph)
    halves: set[str] = set()  # values that exist in 16 bits
    nodes = []
    for node in list(graph.node):
        if node.name not in network:
            nodes.append(node)
            continue
        for position, name in enumerate(node.input):
            if name not in floats and name not in weights:
                continue
            if name not in halves:
                halves.add(name)
                if name in weights:
                    graph.initializer.append(_halved(weights[name], _half(name)))
                else:
                    nodes.append(_cast(name, _half(name), onnx.TensorProto.FLOAT16))
            node.input[position] = _half(name)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == onnx.TensorProto.FLOAT:
                attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.FLOAT16
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in floats:
                halves.add(name)
                node.output[position] = _half(name)
                nodes.append(_cast(_half(name), name, onnx.TensorProto.FLOAT))
    _replace_nodes(graph, nodes)
    return bytes(model.SerializeToString())


def _half(name: str) -> str:
    return f"{name}_fp16"


def _halved(tensor: Any, name: str) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name)


def _cast(source: str, target: str, kind: int) -> Any:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Give a graph other nodes, without those casts and weights that nothing needs."""
    needed = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in nodes if node.op_type != "Cast" or needed.intersection(node.output)]
    weights = [weight for weight in graph.initializer if weight.name in needed]
    for field in ("node", "initializer", "value_info"):
        graph.ClearField(field)
    graph.node.extend(kept)
    graph.initializer.extend(weights)


def in_int8(file: bytes, images: Iterator[UInt8Array]) -> bytes:
    """The file with convolutions and matrix products of its network in 8-bit integers.

    Args:
        file: content of the ONNX file.
        images: batches for calibration, as its input takes them.

    Raises:
        ConfigError: ONNX Runtime is not installed.
    """
    onnx = _packages()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Batches(CalibrationDataReader):  # type: ignore[misc]  # its package has no types
        def get_next(self) -> dict[str, UInt8Array] | None:
            return next(({INPUT: batch} for batch in images), None)

    model = onnx.load_from_string(file)
    network = _network(model.graph)
    onnx.helper.set_model_props(model, {**_texts(model), PREPARED[0]: PREPARED[1]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            model,
            path,
            Batches(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(WEIGHTED),
            nodes_to_quantize=[node.name for node in model.graph.node if node.name in network and _is_weighted(node)],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantised = onnx.load(path)
    onnx.helper.set_model_props(quantised, {key: text for key, text in _texts(model).items() if key != PREPARED[0]})
    return bytes(quantised.SerializeToString())


def _packages() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401 - what converts
    except ImportError as error:
        raise ConfigError(f"this precision needs the package {error.name}: {INSTALL}") from None
    return onnx


def _texts(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _is_weighted(node: Any) -> bool:
    return node.op_type in WEIGHTED


def _network(graph: Any) -> set[str]:
    """Names of the nodes from the first layer with weights on, without the resizing, which has products too."""
    maker = {output: node for node in graph.node for output in node.output}
    resizing, waiting = set(), [OUTPUTS[1]]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.name not in resizing:
            resizing.add(node.name)
            waiting += node.input
    network: set[str] = set()
    values: set[str] = set()
    for node in graph.node:  # in an order in which each stands after what it needs
        if node.name not in resizing and (_is_weighted(node) or values.intersection(node.input)):
            network.add(node.name)
            values.update(node.output)
    return network
