"""Exports of a blend whose members read images of other sizes, in another filter: one program with all of them."""

import numpy as np
import pytest

import loupe
from loupe.data.sources.inference_inputs import from_paths
from loupe.export.card import card
from loupe.export.card_facts import CardFacts
from loupe.export.export import export_model
from loupe.export.predictor import ExportedModel
from loupe.runs.blend import blend

pytestmark = pytest.mark.slow  # two exporters


@pytest.fixture(scope="module")
def blended(run, varied, tmp_path_factory) -> loupe.Run:
    settings = {"input.size_px": 16, "precision": "fp32", "seed": 3, "split.seed": 0}
    output = tmp_path_factory.mktemp("blends")
    smaller = loupe.train(
        varied, recipe="small-images", epochs=1, settings=settings, device="cpu", output=output, name="smaller"
    )
    return blend([run, smaller], (2, 1), output=output, device="cpu")


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_the_exported_blend_has_its_probabilities_for_files_of_every_size(blended, varied, target):
    if target == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    folder, table = export_model(blended, target), from_paths([str(varied)])
    own_NK = blended.predictions(table).calibrated(blended.temperature).probabilities_NK
    theirs_NK = np.concatenate([part.probabilities_NK for part in ExportedModel(folder).stream(table)])
    np.testing.assert_allclose(theirs_NK, own_NK, atol=1e-4)
    assert np.ptp(own_NK, axis=0).max() > 0.01


def test_the_card_of_a_blend_names_its_runs_and_no_folder(blended):
    text = card(CardFacts.of(blended), "", {})
    members = [one.name for one in blended.results.made_of]
    assert f"loupe blend {members[0]} smaller --shares 0.666667,0.333333" in text
    assert str(blended.path.parent) not in text
