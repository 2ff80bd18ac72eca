"""Open Inference Protocol over HTTP: the answers of /predict, in the protocol's words."""

import asyncio
import base64
import doctest
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import digits_service
import httpx
import numpy as np
import pytest
from digits_service import CLASSES
from PIL import Image
from starlette.routing import Route

from loupe import __version__
from loupe.serve import inference_protocol
from loupe.serve.app import create_app
from loupe.serve.inference_protocol import InferenceProtocol
from loupe.serve.limits import Limits
from loupe.serve.openapi_examples import DIGIT, digit_png, inference_request

PNG = digit_png(None)
HEADER = "Inference-Header-Content-Length"
INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def service():
    grey = digits_service.model("grey", channels=1)
    wide = digits_service.model("16 bits", range=(0, 4095))
    return digits_service.service(digits_service.model(), grey, wide)


@pytest.fixture(scope="module")
def client(service):
    with digits_service.client(service) as client:
        yield client


def request(**changes):
    return inference_request(PNG) | changes


def image(*files, **changes):
    data = [base64.b64encode(file).decode() for file in files]
    return {"name": "image", "shape": [len(files)], "datatype": "BYTES", "data": data} | changes


def photo(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def outputs(response):
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


def test_health_and_metadata(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    told = client.get("/v2").json()
    assert told == {"name": "loupe", "version": __version__, "extensions": ["binary_tensor_data"]}
    for path in ("/v2/models/digits", "/v2/models/digits/versions/1"):
        assert client.get(f"{path}/ready").json() == {"name": "digits", "ready": True}
        told = client.get(path).json()
        assert (told["name"], told["versions"], told["platform"]) == ("digits", ["1"], "loupe_bundle")
        assert told["inputs"] == [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ]
        assert told["outputs"] == [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ]
        assert told["parameters"] == {
            "classes": list(CLASSES),
            "temperature": 2.0,
            "threshold": 0.0,
            "weights": "0123abcd",
            "engine": "nearest fp32",
        }
    models = client.get("/v2/models").json()["models"]
    assert [model["name"] for model in models] == ["digits", "grey", "16 bits"]
    assert [tensor["name"] for tensor in models[2]["inputs"]] == ["image"]
    assert models[0] == told


def test_a_server_that_ends_is_alive_and_not_ready():
    ending = replace(digits_service.service(digits_service.model()), ready=False)
    with digits_service.client(ending) as client:
        assert client.get("/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/digits/ready"):
            response = client.get(path)
            assert response.status_code == 503 and response.json()["ready"] is False


@pytest.mark.parametrize(
    "path", ["/v2/models/digit", "/v2/models/digits/versions/2", "/v2/models/digits/versions/2/ready", "/v2/model"]
)
def test_an_unknown_name_is_not_found(client, path):
    response = client.get(path)
    assert response.status_code == 404 and response.json().keys() == {"error"}


@pytest.mark.parametrize("name", ["digits", "grey"])
def test_the_answers_are_those_of_predict(client, name):
    files = [photo(seed)[1] for seed in range(3)] + [PNG]
    parts = [("image", (f"{number}.png", file)) for number, file in enumerate(files)]
    expected = client.post(f"/predict?top=10&model={name}", files=parts).json()["images"]
    path = f"/v2/models/{name}"
    for address in (f"{path}/infer", f"{path}/versions/1/infer"):
        found = outputs(client.post(address, json={"inputs": [image(*files)]}))
        assert found["label"]["data"] == [one["label"] for one in expected]
        by_class = [{one["class"]: one["probability"] for one in each["top"]} for each in expected]
        wanted = [[each[label] for label in CLASSES] for each in by_class]
        np.testing.assert_allclose(np.reshape(found["probabilities"]["data"], (4, 10)), wanted, atol=1e-7)


@pytest.mark.parametrize("name", ["digits", "grey"])
def test_decoded_images_are_answered_as_their_files_are(client, name):
    pixels, file = photo(7)
    path = f"/v2/models/{name}/infer"
    of_file = client.post(path, json={"inputs": [image(file)]}).json()
    tensor = {"name": "pixels", "shape": [1, *pixels.shape], "datatype": "UINT8"}
    assert client.post(path, json={"inputs": [tensor | {"data": [pixels.tolist()]}]}).json() == of_file
    text = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": pixels.size}}]}).encode()
    binary = client.post(path, content=text + pixels.tobytes(), headers={HEADER: str(len(text))})
    assert binary.json() == of_file


def test_a_model_that_reads_16_bits_takes_files_alone(client):
    path = "/v2/models/16 bits/infer"
    assert outputs(client.post(path, json={"inputs": [image(digit_png((0, 4095)))]}))["label"]["data"] == ["0"]
    pixels = {"name": "pixels", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
    assert client.post(path, json={"inputs": [pixels]}).status_code == 400


def test_outputs_are_binary_where_that_is_asked_for(client):
    response = client.post(INFER, json=request(parameters={"binary_data_output": True}, outputs=[{"name": "label"}]))
    length = int(response.headers[HEADER])
    answer = json.loads(response.content[:length])
    (label,) = answer["outputs"]
    assert label == {"name": "label", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    assert response.content[length:] == b"\1\0\0\0000"
    assert response.headers["content-type"] == "application/octet-stream"


def test_the_identifier_comes_back_and_the_threshold_counts(client):
    assert client.post(INFER, json=request(id="β")).json()["id"] == "β"
    assert "id" not in client.post(INFER, json=request(id=None)).json()
    found = outputs(client.post(INFER, json=request(parameters={"threshold": 1.0})))
    assert found["label"]["data"] == ["unclassified"]
    assert max(found["probabilities"]["data"]) == found["probabilities"]["data"][0] < 1


def test_a_damaged_image_refuses_the_whole_request_and_is_named(client):
    response = client.post(INFER, json=request(inputs=[image(PNG, PNG[:40], PNG)]))
    assert response.status_code == 400
    assert response.json()["error"].startswith("image[1]: ")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"inputs": [image(*[PNG] * 5)]}, 413),
        ({"inputs": []}, 400),
        ({"parameters": {"deadline": 1e9}}, 400),
        ({"parameters": {"deadline": 1e-9}}, 504),
        ({"outputs": [{"name": "logits"}]}, 400),
    ],
)
def test_what_is_wrong_is_refused(client, changes, status):
    response = client.post(INFER, json=request(**changes))
    assert response.status_code == status and response.json().keys() == {"error"}


def test_a_compressed_body_is_refused(client):
    assert client.post(INFER, json=request(), headers={"Content-Encoding": "gzip"}).status_code == 415


def test_large_requests_are_parsed_one_after_the_other_within_their_deadline(monkeypatch):
    monkeypatch.setattr(inference_protocol, "SMALL_BYTES", 0)
    waiting = digits_service.service(digits_service.model(), limits=Limits(deadline_seconds=0.2))
    protocol = InferenceProtocol(waiting)
    route = Route("/v2/models/{model}/infer", protocol.infer, methods=["POST"])
    app = create_app(waiting, digits_service.ACCESS, more=[route])

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as client:
            async with protocol._reading:
                late = await client.post(INFER, json=request())
            return late.status_code, (await client.post(INFER, json=request())).status_code

    assert asyncio.run(ask()) == (504, 200)


def test_requests_are_counted_by_route_and_not_by_address(client, service):
    client.post("/v2/models/digits/versions/1/infer", json=request())
    client.post("/v2/models/none/infer", json=request())
    text = service.metrics.text().decode()
    assert 'route="/v2/models/{model}/infer",status="200"' in text
    assert 'model="",route="/v2/models/{model}/infer",status="404"' in text
    assert "versions" not in text and "none" not in text


def test_the_digit_is_one_of_8_bits_and_of_the_range_of_16():
    assert np.asarray(Image.open(io.BytesIO(PNG))).max() == round(15 / 16 * 255)
    wide = np.asarray(Image.open(io.BytesIO(digit_png((100, 1700)))))
    np.testing.assert_array_equal(wide, 100 + 100 * np.array(DIGIT))


def test_the_example_in_python_of_the_documents(client, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```console\n(>>> import base64.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "digit.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    # The address of the page leads to the server of this test.
    monkeypatch.setattr(httpx, "post", lambda address, **sent: client.post(httpx.URL(address).path, **sent))
    example = doctest.DocTestParser().get_doctest(block, {}, "serve.md", None, 0)
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=len(example.examples))
    assert len(example.examples) == 11
