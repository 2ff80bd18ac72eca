"""Class activation maps over HTTP: those of the run, of the export, and the answers without any."""

import numpy as np
import pytest
from colours import PREPROCESSING, colours, picture, save_bundle, save_export
from running import application, service_of
from starlette.testclient import TestClient

from loupe.serve import evidence

CLASSES = ("red", "green", "blue")
HOST = {"host": "127.0.0.1"}

pytestmark = pytest.mark.slow  # Captum, and PyTorch's exporter


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    pytest.importorskip("captum")
    pytest.importorskip("onnxscript")
    folder, model = tmp_path_factory.mktemp("models"), colours(CLASSES, (0, 1, 2))
    folders = {
        "run": save_bundle(folder / "run", model),
        "export": save_export(folder / "export", model, with_maps=True),
        "plain": save_export(folder / "plain", model, with_maps=False),
    }
    with TestClient(application(service_of(folders), 80), base_url="http://127.0.0.1") as client:
        yield client


def explained(client, data: bytes, **query: str):
    return client.post("/explain", params=query, content=data, headers={"content-type": "image/png"})


@pytest.mark.parametrize("name", ["run", "export"])
@pytest.mark.parametrize("target", [None, "green"])
def test_a_map_is_that_of_its_class_where_the_evidence_lies(client, name, target):
    data = picture((10, 0, 0), size=(64, 64), quarter=(250, 90, 0))
    query = {"model": name} | ({"class": target} if target else {})
    answer = explained(client, data, **query).json()
    grid = np.array(answer["map"])
    assert answer["class"] == (target or "red") and answer["why"] is None and grid.shape == (28, 28)
    elsewhere = 10 / 250 if target is None else 0
    expected = np.full((28, 28), elsewhere)
    expected[:13, :13] = 1
    blurred = np.zeros((28, 28), bool)  # by the resizing from 64 to 32 pixels
    blurred[12:16, :16] = blurred[:16, 12:16] = True
    assert np.abs(grid - expected)[~blurred].max() < 0.02
    predicted = client.post(
        "/predict", params={"model": name, "top": 3}, content=data, headers={"content-type": "image/png"}
    ).json()["images"][0]["top"]
    [probability] = [one["probability"] for one in predicted if one["class"] == answer["class"]]
    assert answer["probability"] == pytest.approx(probability, abs=1e-6)
    sides = {"width": 28, "height": 28}
    assert answer["preprocessing"] == {
        "resize": PREPROCESSING.resize,
        "load": {"width": 32, "height": 32},
        "size": sides,
    }


def test_without_maps_the_answer_says_why(client):
    answer = explained(client, picture(), model="plain").json()
    assert answer["map"] is None and answer["class"] == "red" and "web" in answer["why"]


def test_without_captum_a_run_has_no_maps(client, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    answer = explained(client, picture(), model="run").json()
    assert answer["map"] is None and "captum" in answer["why"]


def test_refusals(client):
    assert explained(client, picture(), **{"class": "violet"}).status_code == 404
    assert explained(client, picture(), model="nun").status_code == 404
    assert explained(client, b"\x89PNG\r\n\x1a\nnothing").status_code == 422
    two = [("image", ("a.png", picture(), "image/png")), ("image", ("b.png", picture(), "image/png"))]
    assert client.post("/explain", files=two).status_code == 400


def test_too_many_explanations_are_refused_and_one_is_computed_at_a_time(client, monkeypatch):
    monkeypatch.setattr(evidence, "MOST_WAITING", 0)
    refused = explained(client, picture())
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
