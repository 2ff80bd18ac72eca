"""Train, interrupt, resume, predict and compare as a user has it: with the report, OpenVINO and timed precisions."""

import csv

import pytest
import torch

import loupe
from builders import save_photos
from child_processes import killed_in_step
from loupe.models.engine import OpenVinoEngine

SETTINGS = {
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "input.size_px": 32,
    "input.load_px": 32,
    "stages.0.epochs": 2,
    "stages.1.epochs": 2,
    "stages.1.batch_size": 8,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("whole") / "photos", ("cat", "dog"), each=20)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))


def train(photos, output, name: str) -> loupe.Run:
    return loupe.train(
        photos, recipe="last-block", settings=SETTINGS, output=output, name=name, device="cpu", quiet=True
    )


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_ends_with_its_report_and_predicts(photos, tmp_path, monkeypatch, own_cache):
    pytest.importorskip("openvino")
    engines, built = [], OpenVinoEngine.__init__
    monkeypatch.setattr(OpenVinoEngine, "__init__", lambda *given: (engines.append(1), built(*given))[1])
    whole = train(photos, tmp_path, "whole")
    assert engines, "frozen blocks are computed by OpenVINO"

    with killed_in_step(6):
        loupe.train(photos, recipe=whole.path / "recipe.yaml", output=tmp_path, name="killed", quiet=True)
    resumed = loupe.resume(tmp_path / "killed", quiet=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    assert resumed.results.test == whole.results.test
    assert "</html>" in (resumed.path / "report.html").read_text(encoding="utf-8")
    new = [photos / "cat" / "1.jpg", photos / "dog" / "1.jpg"]
    assert resumed.predict(new) == whole.predict(new)
    assert resumed.predict_proba(new).shape == (2, 2)


@pytest.mark.slow
def test_a_comparison_trains_reports_and_names_one_of_its_candidates(photos, tmp_path, own_cache):
    few = ["input.size_px=32", "input.load_px=32", "stages.0.epochs=1"]
    loupe.compare(photos, recipes=["photographs-plain", "photographs"], settings=few, output=tmp_path, quiet=True)
    pages = {path.name for path in tmp_path.glob("**/*.html")}
    assert "report.html" in pages and len(pages) == 2, "of both runs, and of the comparison"
    with next(tmp_path.glob("comparison-*.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert {row["recipe"] for row in rows if row["split"] == "validation"} == {"photographs-plain", "photographs"}
    assert len([row for row in rows if row["split"] == "test"]) == 1, "the test images are opened for one of them"
