"""ONNX file of a classifier: from decoded images of any size to calibrated probabilities, in standard operators."""

import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch

from loupe.data.pixels.limits import MAX_PIXELS
from loupe.errors import ConfigError
from loupe.export.program import ImageProgram, exported

OPSET = 18
INPUT = "images"
OUTPUTS = ("probabilities", "pixels", "maps")
MOST_BYTES = 2**31 - 2**20  # of one file of protocol buffers
INSTALL = "pip install 'loupe-vision[export]'"


def onnx_file(program: ImageProgram, metadata: Mapping[str, str]) -> bytes:
    """Content of the ONNX file: opset 18, standard operators, weights inside.

    Args:
        program: network with its preprocessing.
        metadata: texts to store in the file.

    Raises:
        ConfigError: the packages of the extra `export` are missing, the weights exceed the 2 GiB of one file, or
            PyTorch cannot express the network in ONNX.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - what PyTorch's exporter needs
    except ImportError as error:
        raise ConfigError(f"ONNX needs the package {error.name}: {INSTALL}") from None
    size = sum(value.numel() * value.element_size() for value in program.state_dict().values())
    if size > MOST_BYTES:
        raise ConfigError(f"the weights take {size / 2**30:.1f} GiB, and one ONNX file holds 2. Use --to torch.")
    names = OUTPUTS if program.maps is not None else OUTPUTS[:2]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # the exporter prints its steps
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            exported(program),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(names),
            external_data=False,
            verbose=False,
        )
    assert written is not None
    model = written.model_proto
    _refuse_sizes(model.graph)
    for number, node in enumerate(model.graph.node):
        node.ClearField("metadata_props")  # source lines and paths of this machine
        node.name = node.name or f"node_{number}"
    model.producer_name = "loupe"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _refuse_sizes(graph: Any) -> None:
    """Make empty and enormous images an error: ONNX has no operator for that, so they get a shape of another size."""
    from onnx import TensorProto, helper, numpy_helper

    name = f"image_is_empty_or_has_more_than_{MAX_PIXELS}_pixels"
    checked = f"{INPUT}_checked"
    for node in graph.node:
        node.input[:] = [checked if value == INPUT else value for value in node.input]
    constants = {"least": [1], "most": [MAX_PIXELS]}
    for key, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(torch.tensor(value).numpy(), f"size_{key}"))
    nodes = [
        helper.make_node("Shape", [INPUT], ["size_hw"], start=1, end=3),
        helper.make_node("ReduceProd", ["size_hw"], ["size_px"], keepdims=1),
        helper.make_node("Less", ["size_px", "size_least"], ["size_empty"]),
        helper.make_node("Greater", ["size_px", "size_most"], ["size_enormous"]),
        helper.make_node("Or", ["size_empty", "size_enormous"], ["size_wrong"]),
        helper.make_node("Cast", ["size_wrong"], ["size_more"], to=TensorProto.INT64),
        helper.make_node("Shape", [INPUT], ["size_whole"]),
        helper.make_node("Add", ["size_whole", "size_more"], ["size_checked"]),  # [N + 1, H + 1, W + 1, 4] if wrong
        helper.make_node("Reshape", [INPUT, "size_checked"], [checked], name=name, allowzero=1),
    ]
    graph.node.extend(nodes)
    graph.node.sort(key=lambda node: node not in nodes)
