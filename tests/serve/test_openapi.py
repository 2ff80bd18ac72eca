"""Description of the server: valid, complete, and with examples that are what the server answers."""

import base64
import re
from importlib.util import find_spec
from pathlib import Path

import digits_service
import numpy as np
import pytest

from loupe.serve.guard import OPEN_FOLDER
from loupe.serve.metrics import ROUTES
from loupe.serve.openapi_examples import DIGIT
from loupe.serve.served import open_model
from loupe.serve.server import routes

PARAMETER = re.compile(r"\{(\w+)\}")


@pytest.fixture(scope="module")
def service():
    return digits_service.service(digits_service.model(), digits_service.model("grey", channels=1))


@pytest.fixture(scope="module")
def client(service):
    with digits_service.client(service) as client:
        yield client


@pytest.fixture(scope="module")
def document(client):
    response = client.get("/openapi.json")
    assert response.status_code == 200
    return response.json()


def operations(document):
    for path, methods in document["paths"].items():
        for method in ("get", "post"):
            if method in methods:
                yield method.upper(), path, methods[method]


def test_every_reference_leads_somewhere_and_every_schema_is_used(document):
    schemas = document["components"]["schemas"]
    used = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(document)))
    assert used == schemas.keys()


def test_every_operation_has_a_name_of_its_own_and_declares_its_path(document):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, methods in document["paths"].items():
        declared = {one["name"] for one in methods.get("parameters", []) if one["in"] == "path"}
        assert declared == set(PARAMETER.findall(path))


def test_every_route_is_described_and_counted(service, document):
    paths = {route.path for route in routes(service) if not route.path.startswith(OPEN_FOLDER)}
    paths |= {"/predict", "/metrics"}
    assert document["paths"].keys() == paths
    assert {path.replace("/versions/{version}", "") for path in paths} <= set(ROUTES)


def test_the_examples_of_predict_are_its_answers(client, document):
    predict = document["paths"]["/predict"]["post"]
    address = predict["requestBody"]["content"]["image/*"]["examples"]["digit"]["externalValue"]
    image = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    for body, status, name in ((image, 200, "intact"), (image[: len(image) // 2], 422, "damaged")):
        response = client.post("/predict", content=body, headers={"Content-Type": "image/png"})
        shown = predict["responses"][str(status)]["content"]["application/json"]["examples"][name]["value"]
        assert response.status_code == status and response.json() == shown
    assert client.post("/predict", content=image, headers={"Content-Type": "image/png"}).json()["images"] == [
        {"path": "image", "label": "0", "top": [{"class": "0", "probability": pytest.approx(1, abs=0.3)}]}
    ]


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_the_examples_of_the_protocol_are_its_answers(client, document, version):
    pattern = "/v2/models/{model}" + ("/versions/{version}" if version else "")
    path = f"/v2/models/digits{version}"
    infer = document["paths"][f"{pattern}/infer"]["post"]
    asked = infer["requestBody"]["content"]["application/json"]["examples"]["digit"]["value"]
    shown = infer["responses"]["200"]["content"]["application/json"]["examples"]["digit"]["value"]
    assert client.post(f"{path}/infer", json=asked).json() == shown
    (described,) = document["paths"][pattern]["get"]["responses"]["200"]["content"]["application/json"][
        "examples"
    ].values()
    assert client.get(path).json() == described["value"]


def test_the_description_is_computed_once_until_a_model_is_replaced(client, service):
    def predicted():
        return [line for line in service.metrics.text().splitlines() if b"loupe_images_total" in line]

    first, before = client.get("/openapi.json").content, predicted()
    assert (client.get("/openapi.json").content, predicted()) == (first, before)
    old = service.models["digits"]
    service.replace(digits_service.model())
    try:
        assert client.get("/openapi.json").content == first
        assert predicted() != before
    finally:
        service.replace(old)


def test_a_model_with_a_range_has_an_example_of_16_bits():
    wide = digits_service.service(digits_service.model(range=(0, 4095)))
    with digits_service.client(wide) as client:
        document = client.get("/openapi.json").json()
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    answered = infer["responses"]["200"]["content"]["application/json"]["examples"]["digit"]["value"]
    assert answered["outputs"][0]["data"] == ["0"]


def test_the_digit_is_the_first_of_the_data_set():
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    *values, label = np.loadtxt(file, delimiter=",", max_rows=1)
    assert [*np.ravel(DIGIT), 0] == [*values, label]


@pytest.mark.slow
def test_the_examples_of_a_trained_network_are_its_answers(digits_run):
    trained = digits_service.service(open_model(digits_run / "model", "trained"))
    with digits_service.client(trained) as client:
        document = client.get("/openapi.json").json()
        infer = document["paths"]["/v2/models/{model}/infer"]["post"]
        asked = infer["requestBody"]["content"]["application/json"]["examples"]["digit"]["value"]
        shown = infer["responses"]["200"]["content"]["application/json"]["examples"]["digit"]["value"]
        answer = client.post("/v2/models/trained/infer", json=asked).json()
    probabilities, shown_probabilities = (one["outputs"][1].pop("data") for one in (answer, shown))
    assert answer == shown
    np.testing.assert_allclose(probabilities, shown_probabilities, atol=1e-6)  # of another batch
    assert len(probabilities) == 10 and sum(probabilities) == pytest.approx(1, abs=1e-5)
