"""Tensors of the Open Inference Protocol: from the body of a request to images, and from probabilities to an answer."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import ValidationError

from loupe.config.size import Size
from loupe.data.pixels.decode import DecoderSettings, UInt8Array, resized
from loupe.errors import counted, unknown_name
from loupe.models.pixel_engine import Array
from loupe.serve.inference_messages import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    InputTensor,
    OutputTensor,
    TensorParameters,
)
from loupe.serve.limits import Limits
from loupe.serve.refusals import Refusal

VERSION = "1"
HEADER_LENGTH = "Inference-Header-Content-Length"
MOST_VALUES = 250_000
"""Values in the JSON of a request: each takes up to 60 bytes once it is read, and the interpreter reads no other."""
MOST_FIELDS = 1_000

OutputName = Literal["probabilities", "label"]
OUTPUTS: tuple[OutputName, ...] = ("probabilities", "label")
DATATYPES: dict[str, Datatype] = {"image": "BYTES", "pixels": "UINT8", "probabilities": "FP32", "label": "BYTES"}
SHAPES = {"image": "[N]", "pixels": "[N, height, width, 3]"}


@dataclass(frozen=True)
class Inputs:
    """Content of a request.

    Attributes:
        images: image files, or None where `pixels` are given.
        pixels: decoded images, uint8 [N, H, W, 3], or None where `images` are given.
        outputs: names of the outputs that are asked for, and true for those to be sent as binary tensors.
        id: identifier of the request, for the answer.
        threshold, deadline_seconds: as in the request; None for the server's.
    """

    images: list[bytes] | None
    pixels: UInt8Array | None
    outputs: dict[OutputName, bool]
    id: str | None
    threshold: float | None
    deadline_seconds: float | None


def read_request(body: bytes, header_length: str | None, limits: Limits) -> Inputs:
    """Read the body of a request.

    Args:
        body: JSON, and after it the binary tensors.
        header_length: value of the header `Inference-Header-Content-Length`; None where the body is JSON alone.
        limits: limits of a request.

    Raises:
        Refusal: the body is not a request of the protocol, or exceeds a limit.
    """
    length = _header_length(header_length, len(body))
    request = _parsed(body[:length])
    if len(request.inputs) != 1:
        raise Refusal(400, f"a request has one input, image or pixels; this one has {len(request.inputs)}.")
    tensor = request.inputs[0]
    _check_shape(tensor, limits)
    binary = _binary(tensor, memoryview(body)[length:])
    parameters = request.parameters
    return Inputs(
        images=_files(tensor, binary) if tensor.name == "image" else None,
        pixels=_pixels(tensor, binary) if tensor.name == "pixels" else None,
        outputs=_outputs(request),
        id=request.id,
        threshold=parameters.threshold if parameters else None,
        deadline_seconds=parameters.deadline if parameters else None,
    )


def _header_length(given: str | None, body_bytes: int) -> int:
    if given is None:
        return body_bytes
    if not (given.isascii() and given.isdigit() and len(given) < 20 and 0 < int(given) <= body_bytes):
        raise Refusal(
            400,
            f"{HEADER_LENGTH}: {given[:50]!r} is not the length of the JSON at the start of the body, which has "
            f"{counted(body_bytes, 'byte')}.",
        )
    return int(given)


def _parsed(text: bytes) -> InferenceRequest:
    # Lists and errors take many times the bytes of their text, so their number is bounded before it is read.
    if text.count(b":") > MOST_FIELDS:
        raise Refusal(413, f"the JSON has more than {MOST_FIELDS:,} fields. A request of the protocol has fewer.")
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MOST_VALUES:
        raise Refusal(
            413, f"the JSON has more than {MOST_VALUES:,} values. Send image files, or pixels as a binary tensor."
        )
    try:
        return InferenceRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        reason = "unknown field" if first["type"] == "extra_forbidden" else first["msg"]
        raise Refusal(
            400, f"not a request of the Open Inference Protocol: {place[:200] or 'body'}: {reason[:200]}."
        ) from None


def _check_shape(tensor: InputTensor, limits: Limits) -> None:
    name, shape = tensor.name, tensor.shape
    if name not in SHAPES:
        raise Refusal(400, str(unknown_name("input", name[:100], SHAPES)))
    if tensor.datatype != DATATYPES[name]:
        raise Refusal(400, f"{name}: the datatype is {DATATYPES[name]}, not {tensor.datatype[:50]!r}.")
    fits = len(shape) == 1 if name == "image" else len(shape) == 4 and shape[3] == 3
    if not fits or min(shape) < 1:
        raise Refusal(400, f"{name}: the shape is {SHAPES[name]} with sides of at least 1, not {str(shape)[:200]}.")
    if shape[0] > limits.images:
        message = f"{shape[0]:,} images; at most {limits.images} in a request. Send several requests."
        raise Refusal(413, message, reason="images")


def _binary(tensor: InputTensor, rest: memoryview) -> memoryview | None:
    """Bytes of the tensor behind the JSON; None where it is in the JSON."""
    size = tensor.parameters.binary_data_size if tensor.parameters else None
    if (size is None) == (tensor.data is None):
        raise Refusal(400, f"{tensor.name}: give either data, or parameters.binary_data_size and a binary tensor.")
    if (size or 0) != len(rest):
        raise Refusal(
            400,
            f"{tensor.name}: {counted(len(rest), 'byte')} behind the JSON, and binary_data_size is {size or 0}. "
            f"{HEADER_LENGTH} has the length of the JSON.",
        )
    return rest if size is not None else None


def _files(tensor: InputTensor, binary: memoryview | None) -> list[bytes]:
    """Image files of the tensor `image`."""
    number = tensor.shape[0]
    if binary is not None:
        return _elements(binary, number)
    texts = tensor.data or []
    if len(texts) != number:
        raise Refusal(400, f"image: the shape says {counted(number, 'image')}, and the data has {len(texts):,}.")
    return [_decoded(index, text) for index, text in enumerate(texts)]


def _decoded(index: int, text: Any) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Refusal(400, f"image: data[{index}] is not the base64 text of an image file.")


def _elements(binary: memoryview, number: int) -> list[bytes]:
    """Elements of a binary tensor of the type BYTES: each is 4 bytes of its length, the lowest first, and its bytes."""
    elements, end = [], 0
    for index in range(number):
        start = end + 4
        end = start + int.from_bytes(binary[end:start], "little")
        if end > len(binary):
            raise Refusal(400, f"image: element {index} of {number} ends behind the binary tensor.")
        elements.append(bytes(binary[start:end]))
    if end < len(binary):
        raise Refusal(400, f"image: {counted(len(binary) - end, 'byte')} behind the {number} elements of the shape.")
    return elements


def _pixels(tensor: InputTensor, binary: memoryview | None) -> UInt8Array:
    """Decoded images of the tensor `pixels`, uint8 [N, H, W, 3]."""
    wanted = prod(tensor.shape)
    if binary is None:
        binary = memoryview(_numbers(tensor.data or [], tensor.shape))
    if len(binary) != wanted:
        raise Refusal(400, f"pixels: {wanted:,} values by the shape {tensor.shape}, and the data has {len(binary):,}.")
    return np.frombuffer(binary, np.uint8).reshape(tensor.shape)


def _numbers(data: list[Any], shape: Sequence[int]) -> bytes:
    """Numbers of a flat list, or of nested lists of the shape."""
    if data and isinstance(data[0], list):
        for depth, side in enumerate(shape):
            rows = [data] if depth == 0 else data
            if not all(isinstance(row, list) and len(row) == side for row in rows):
                raise Refusal(400, f"pixels: the nested lists do not have the shape {list(shape)}.")
            data = list(chain.from_iterable(rows))
    if not all(type(value) is int and 0 <= value <= 255 for value in data):
        raise Refusal(400, "pixels: values are whole numbers from 0 to 255.")
    return bytes(data)


def _outputs(request: InferenceRequest) -> dict[OutputName, bool]:
    all_binary = request.parameters is not None and request.parameters.binary_data_output
    if not request.outputs:
        return dict.fromkeys(OUTPUTS, all_binary)
    chosen: dict[OutputName, bool] = {}
    for output in request.outputs:
        name = next((name for name in OUTPUTS if name == output.name), None)
        if name is None:
            raise Refusal(400, str(unknown_name("output", output.name[:100], OUTPUTS)))
        if name in chosen:
            raise Refusal(400, f"the output {name} is asked for twice.")
        binary = output.parameters.binary_data if output.parameters else None
        chosen[name] = all_binary if binary is None else binary
    return chosen


def check_pixels_allowed(settings: DecoderSettings) -> None:
    """Check that a model can take decoded images.

    Raises:
        Refusal: its pixels depend on values that only the file of an image has.
    """
    if settings["levels"] is not None:
        low, high = settings["levels"]
        raise Refusal(
            400, f"pixels: this model reads values from {low} to {high} out of image files. Send the files as image."
        )


def prepare(pixels_NHW3: UInt8Array, settings: DecoderSettings) -> list[UInt8Array]:
    """Decoded images in the size and the channels of a model's input, as files with these pixels would give them.

    Raises:
        Refusal: an image cannot be resized.
    """
    prepared = []
    for index, pixels_HW3 in enumerate(pixels_NHW3):
        image = Image.fromarray(pixels_HW3)
        try:
            image = image if settings["channels"] == 3 else image.convert("L")
            size = Size.of(settings["load_px"])
            prepared.append(resized(image, size, settings["resize"], settings["interpolation"], settings["definition"]))
        except (ValueError, MemoryError) as error:
            raise Refusal(400, f"pixels[{index}]: {error or 'not enough memory'}.") from None
    return prepared


def write_response(
    model_name: str, inputs: Inputs, probability_NK: Array, labels: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer: JSON, and after it the outputs that were asked for as binary tensors."""
    outputs, binary = [], []
    for name, is_binary in inputs.outputs.items():
        shape = list(probability_NK.shape) if name == "probabilities" else [len(labels)]
        tensor = OutputTensor(name=name, shape=shape, datatype=DATATYPES[name])
        if is_binary:
            binary.append(_encoded(probability_NK, labels)[name])
            tensor.parameters = TensorParameters(binary_data_size=len(binary[-1]))
        elif name == "probabilities":
            tensor.data = probability_NK.astype(np.float32).ravel().tolist()
        else:
            tensor.data = list(labels)
        outputs.append(tensor)
    response = InferenceResponse(model_name=model_name, model_version=VERSION, id=inputs.id, outputs=outputs)
    text = response.model_dump_json(exclude_none=True).encode()
    if not binary:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *binary]), headers


def _encoded(probability_NK: Array, labels: Sequence[str]) -> dict[OutputName, bytes]:
    names = [label.encode() for label in labels]
    return {
        "probabilities": probability_NK.astype("<f4").tobytes(),
        "label": b"".join(len(name).to_bytes(4, "little") + name for name in names),
    }
