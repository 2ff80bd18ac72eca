"""Tensors of the Open Inference Protocol: what is read from a body, what is refused, and what is answered."""

import base64
import json
from io import BytesIO

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from loupe.config.size import Size
from loupe.data.pixels.decode import DecoderSettings, load
from loupe.serve.inference_tensors import (
    MOST_FIELDS,
    MOST_VALUES,
    Inputs,
    check_pixels_allowed,
    prepare,
    read_request,
    write_response,
)
from loupe.serve.limits import Limits
from loupe.serve.refusals import Refusal

LIMITS = Limits(images=3)
FILES = [b"first file", b"", b"\x00third\xff"]
PIXELS = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


def image(**changes):
    texts = [base64.b64encode(file).decode() for file in FILES]
    return {"name": "image", "shape": [3], "datatype": "BYTES", "data": texts} | changes


def pixels(**changes):
    tensor = {"name": "pixels", "shape": [2, 3, 4, 3], "datatype": "UINT8", "data": PIXELS.ravel().tolist()}
    return tensor | changes


def read(*inputs, **fields) -> Inputs:
    return read_request(json.dumps({"inputs": inputs, **fields}).encode(), None, LIMITS)


def read_binary(tensor, binary: bytes, *, length=None, size=None, **fields) -> Inputs:
    named = {key: value for key, value in tensor.items() if key != "data"}
    named["parameters"] = {"binary_data_size": len(binary) if size is None else size}
    text = json.dumps({"inputs": [named], **fields}).encode()
    return read_request(text + binary, str(len(text)) if length is None else length, LIMITS)


def elements(files) -> bytes:
    return b"".join(len(file).to_bytes(4, "little") + file for file in files)


def test_files_are_the_same_in_json_and_as_a_binary_tensor():
    assert read(image()).images == read_binary(image(), elements(FILES)).images == FILES
    assert read(image()).pixels is None


@pytest.mark.parametrize("data", [PIXELS.ravel().tolist(), PIXELS.tolist()])
def test_pixels_may_be_flat_or_nested(data):
    found = read(pixels(data=data))
    np.testing.assert_array_equal(found.pixels, PIXELS)
    assert found.pixels.dtype == np.uint8 and found.images is None


def test_pixels_are_the_same_as_a_binary_tensor():
    np.testing.assert_array_equal(read_binary(pixels(), PIXELS.tobytes()).pixels, PIXELS)


def test_identifier_parameters_and_outputs_are_read():
    found = read(
        image(),
        id="42",
        parameters={"threshold": 0.5, "deadline": 2},
        outputs=[{"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities"}],
    )
    assert (found.id, found.threshold, found.deadline_seconds) == ("42", 0.5, 2)
    assert found.outputs == {"label": True, "probabilities": False}


def test_all_outputs_are_answered_where_none_is_named():
    for outputs in ({}, {"outputs": None}, {"outputs": []}):
        found = read(image(), **outputs)
        assert (found.outputs, found.id, found.threshold) == ({"probabilities": False, "label": False}, None, None)
    binary = {"binary_data_output": True}
    assert read(image(), parameters=binary).outputs == {"probabilities": True, "label": True}
    json_label = {"name": "label", "parameters": {"binary_data": False}}
    assert read(image(), parameters=binary, outputs=[json_label]).outputs == {"label": False}


@pytest.mark.parametrize(
    "tensor",
    [
        image(name="picture"),
        image(datatype="UINT8"),
        image(shape=[3, 1]),
        image(shape=[]),
        image(shape=[2]),
        image(shape=[0], data=[]),
        image(shape=["3"]),
        image(shape=[-3]),
        image(data=None),
        image(data=["not base64", "", ""]),
        image(data=["QUJD\n", "", ""]),
        image(data=[1, 2, 3]),
        image(data="QUJD"),
        image(parameters={"binary_data_size": 4}),
        image(parameters={"binary_data": True}),
        image(more=1),
        pixels(datatype="FP32"),
        pixels(shape=[2, 3, 4, 1]),
        pixels(shape=[2, 3, 4]),
        pixels(shape=[2, 3, 0, 3]),
        pixels(shape=[2, 4, 3, 3], data=PIXELS.tolist()),
        pixels(shape=[1, 3, 4, 3]),
        pixels(shape=[1, 2**62, 2**62, 3]),
        pixels(shape=[1, 2**64, 1, 3]),
        pixels(data=[[1, 2], 3]),
        pixels(data=[*[0] * 71, 256]),
        pixels(data=[*[0] * 71, -1]),
        pixels(data=[*[0] * 71, 1.0]),
        pixels(data=[*[0] * 71, True]),
        pixels(data=[*[0] * 71, "1"]),
        pixels(data=[*[0] * 71, None]),
        pixels(data=[*[0] * 71, 10**30]),
    ],
)
def test_an_input_that_does_not_fit_is_refused(tensor):
    with pytest.raises(Refusal) as refused:
        read(tensor)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"treshold": 0.5}},
        {"parameters": {"threshold": 1.5}},
        {"parameters": {"threshold": "0.5"}},
        {"parameters": {"deadline": 0}},
        {"outputs": [{"name": "logits"}]},
        {"outputs": [{"name": "label"}, {"name": "label"}]},
        {"outputs": [{"name": "label", "parameters": {"classification": 3}}]},
        {"id": 42},
        {"output": []},
    ],
)
def test_a_field_that_does_not_fit_is_refused(fields):
    with pytest.raises(Refusal) as refused:
        read(image(), **fields)
    assert refused.value.status == 400


@pytest.mark.parametrize("inputs", [(), (image(), pixels())])
def test_a_request_has_one_input(inputs):
    with pytest.raises(Refusal) as refused:
        read(*inputs)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("binary", "changes"),
    [
        (elements(FILES)[:-1], {}),
        (elements(FILES) + b"\0", {}),
        (elements([*FILES, b"fourth"]), {}),
        (elements(FILES[:2]) + b"\1\0", {}),
        (elements(FILES[:2]) + b"\xff\xff\xff\xff", {}),
        (elements(FILES), {"size": 3}),
        (elements(FILES), {"size": 10**18}),
        (elements(FILES), {"length": "0"}),
        (elements(FILES), {"length": "-1"}),
        (elements(FILES), {"length": "1e2"}),
        (elements(FILES), {"length": "٣"}),
        (elements(FILES), {"length": "9" * 5000}),
        (elements(FILES), {"length": "1"}),
    ],
)
def test_a_binary_tensor_that_does_not_fit_is_refused(binary, changes):
    with pytest.raises(Refusal) as refused:
        read_binary(image(), binary, **changes)
    assert refused.value.status == 400


def test_bytes_behind_the_json_need_a_tensor():
    text = json.dumps({"inputs": [image()]}).encode()
    with pytest.raises(Refusal) as refused:
        read_request(text + b"more", str(len(text)), LIMITS)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"inputs": [image(shape=[4], data=["QQ=="] * 4)]}).encode(),
        b"[" + b"[]," * MOST_VALUES + b"[]]",
        b"{" + b",".join(b'"%d":0' % number for number in range(MOST_FIELDS + 1)) + b"}",
    ],
)
def test_too_much_is_refused_before_it_takes_memory(body):
    with pytest.raises(Refusal) as refused:
        read_request(body, None, LIMITS)
    assert refused.value.status == 413


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=50)
@given(
    ANY_JSON,
    st.sampled_from(["inputs", "shape", "data", "name", "datatype", "parameters", "outputs"]),
    st.booleans(),
    st.binary(max_size=40),
)
@example(None, "inputs", True, b"\xff")
def test_nothing_but_a_refusal_comes_of_any_body(value, place, is_pixels, rest):
    tensor = pixels() if is_pixels else image()
    request = {"inputs": [tensor]}
    (tensor if place in tensor else request)[place] = value
    text = json.dumps(request).encode()
    for body, length in ((text, None), (text + rest, str(len(text))), (rest, None), (rest, str(len(rest)))):
        try:
            found = read_request(body, length, LIMITS)
        except Refusal as refusal:
            assert refusal.status in (400, 413)
        else:
            assert (found.images is None) != (found.pixels is None)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("definition", [1, 2])
def test_pixels_are_resized_as_those_of_a_file_are(resize, channels, definition):
    own = DecoderSettings(
        load_px=(12, 9), resize=resize, interpolation="bicubic", levels=None, channels=channels, definition=definition
    )
    for height, width in ((30, 20), (7, 40), (1, 1), (*Size.of((12, 9)),)):
        pixels_HW3 = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(pixels_HW3).save(file, "PNG")
        (prepared,) = prepare(pixels_HW3[None], own)
        np.testing.assert_array_equal(prepared, load(file.getvalue(), "image", **own))


def test_pixels_are_refused_where_the_model_reads_values_of_files():
    own = DecoderSettings(
        load_px=8, resize="crop", interpolation="bilinear", levels=(0, 4095), channels=1, definition=2
    )
    with pytest.raises(Refusal) as refused:
        check_pixels_allowed(own)
    assert refused.value.status == 400
    check_pixels_allowed({**own, "levels": None})


def test_the_answer_is_the_same_in_json_and_as_binary_tensors():
    probability_NK = np.array([[0.25, 0.75], [1 / 3, 2 / 3]])
    labels = ["naïve", "<script>"]
    told = {}
    for binary in (False, True):
        asked = read(image(), id="7", parameters={"binary_data_output": binary})
        body, headers = write_response("m", asked, probability_NK, labels)
        length = int(headers.get("Inference-Header-Content-Length", len(body)))
        told[binary] = json.loads(body[:length]), body[length:]
        assert headers["Content-Type"] == ("application/octet-stream" if binary else "application/json")
    answer, rest = told[False]
    assert rest == b"" and answer["id"] == "7" and answer["model_name"] == "m" and answer["model_version"] == "1"
    first, second = answer["outputs"]
    assert (first["name"], first["shape"], first["datatype"]) == ("probabilities", [2, 2], "FP32")
    assert first["data"] == [0.25, 0.75, *np.array([1 / 3, 2 / 3], np.float32).astype(float)]
    assert second == {"name": "label", "shape": [2], "datatype": "BYTES", "data": labels}
    header, rest = told[True]
    sizes = [output["parameters"]["binary_data_size"] for output in header["outputs"]]
    assert sum(sizes) == len(rest) and not any("data" in output for output in header["outputs"])
    np.testing.assert_array_equal(np.frombuffer(rest[: sizes[0]], "<f4"), np.array(first["data"], np.float32))
    assert rest[sizes[0] :] == elements(label.encode() for label in labels)
