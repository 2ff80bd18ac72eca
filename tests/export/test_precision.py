"""ONNX files in lower precision: the resizing stays exact, and the accuracy that is lost decides."""

import json

import numpy as np
import pytest

from builders import save_varied
from loupe.errors import ConfigError, DataError, ExportRefusedError
from loupe.export import onnx_target
from loupe.export.accuracy_loss import AccuracyLoss
from loupe.export.export import export_model
from loupe.export.folder import Manifest
from loupe.export.job import Options
from loupe.export.parity import ParityReport
from loupe.export.predictor import ExportedModel

pytestmark = pytest.mark.slow  # converting a network takes seconds

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def hits(correct: int, images: int) -> list[bool]:
    return [number < correct for number in range(images)]


def test_the_loss_is_that_of_the_paired_comparison():
    loss = AccuracyLoss.of(hits(950, 1000), hits(940, 1000), 0.05)
    assert loss.value == pytest.approx(0.01) and loss.low < 0.01 < loss.high
    assert (loss.run_correct, loss.export_correct, loss.images) == (950, 940, 1000)
    loss.check("engine")


def test_a_loss_that_is_certain_is_refused():
    loss = AccuracyLoss.of(hits(950, 1000), hits(800, 1000), 0.005)
    assert loss.low > loss.most and loss.images_to_decide is None
    with pytest.raises(ExportRefusedError, match=r"15\.00 points.*1,000 images.*--max-loss"):
        loss.check("engine")


@pytest.mark.parametrize("images", [3, 100, 300])
def test_few_images_cannot_decide_and_are_refused_with_the_number_that_could(images):
    loss = AccuracyLoss.of(hits(images, images), hits(images, images), 0.005)
    assert loss.value == 0 and loss.high > 0.005
    needed = loss.images_to_decide
    with pytest.raises(ExportRefusedError, match=f"about {needed:,} could"):
        loss.check("engine")
    AccuracyLoss.of(hits(4 * needed, 4 * needed), hits(4 * needed, 4 * needed), 0.005).check("engine")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return save_varied(tmp_path_factory.mktemp("labelled"), 40)


@pytest.fixture(scope="module", autouse=True)
def recorded_once(exported):
    """The file in fp32 is that of the export that is there, as recording the network takes seconds."""
    file = (exported / "model.onnx").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_target, "onnx_file", lambda *_: file)
        yield


@pytest.fixture(scope="module", params=["fp16", "int8"])
def folder(request, run, labelled, tmp_path_factory):
    place = tmp_path_factory.mktemp("made") / request.param
    options = Options(precision=request.param, max_loss_points=40)
    return export_model(run, "onnx", folder=place, images=labelled, options=options)


def test_pixels_are_exact_and_the_report_has_the_loss(folder):
    (engine,) = ParityReport.read(folder / "parity.json").engines
    assert engine.images == engine.loss.images == 80
    assert engine.differing_pixel_values == 0
    assert engine.loss.high <= engine.loss.most == pytest.approx(0.4)
    assert Manifest.read(folder / "export.json").precision == folder.name
    assert "accuracy" in (folder / "card.md").read_text()


def test_only_the_network_has_the_lower_precision(folder, exported):
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    half = onnx.TensorProto.FLOAT16 if folder.name == "fp16" else onnx.TensorProto.INT8
    large = [weights for weights in model.graph.initializer if np.prod(weights.dims) > 1000]
    assert large and all(weights.data_type == half for weights in large)
    assert (folder / "model.onnx").stat().st_size < (exported / "model.onnx").stat().st_size
    if folder.name == "int8":
        scales = [len(weights.dims) for weights in model.graph.initializer if weights.name.endswith("weight_scale")]
        assert scales and all(scales)  # one for each channel
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert set(texts) >= {"classes", "temperature"} and not any("quant" in key for key in texts)


def test_the_folder_predicts(folder, labelled):
    found = ExportedModel(folder).evaluate("val", labelled)
    assert found.images == 80


def test_validation_images_too_few_to_decide(run, tmp_path):
    with pytest.raises(ExportRefusedError, match="cannot decide it"):
        export_model(run, "onnx", folder=tmp_path / "made", options=Options(precision="fp16"))
    assert list(tmp_path.iterdir()) == []


def test_images_without_labels_are_refused(run, labelled, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text(f"path\n{next((labelled / 'dark').iterdir())}\n")
    with pytest.raises(DataError):
        export_model(run, "onnx", folder=tmp_path / "made", images=listed, options=Options(precision="fp16"))


@pytest.mark.parametrize("target", ["torch", "openvino"])
def test_a_precision_that_a_target_does_not_have_is_refused(run, tmp_path, target):
    with pytest.raises(ConfigError, match="fp32"):
        export_model(run, target, folder=tmp_path / "made", options=Options(precision="int8"))


def test_calibration_images_are_those_that_the_seed_draws(run):
    first, second = (np.concatenate(list(onnx_target.calibration_batches(run))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape[1:] == (24, 24, 3) and 0 < len(first) <= 300


def test_the_file_has_no_path_of_the_machine(exported):
    assert b"site-packages" not in (exported / "model.onnx").read_bytes()
    assert json.loads((exported / "parity.json").read_text())["engines"][0]["loss"] is None
