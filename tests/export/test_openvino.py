"""Exported network for OpenVINO: pixels, classes and probabilities of the run, though it lacks 64-bit floats."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from loupe.data.pixels.limits import MAX_PIXELS
from loupe.data.sources.folders import from_paths
from loupe.errors import DataError
from loupe.export.export import export_model, in_fp32
from loupe.export.parity import ParityReport
from loupe.export.predictor import ExportedModel
from loupe.export.program import ImageProgram
from loupe.export.runner_choice import runner_of
from loupe.export.runners import OpenVino
from loupe.models.openvino_import import core

pytestmark = pytest.mark.slow  # its pixels are tested in PyTorch as well, in test_resize.py
pytest.importorskip("openvino")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return export_model(run, "openvino", folder=tmp_path_factory.mktemp("made") / "openvino")


@pytest.fixture(scope="module")
def engine(folder):
    return OpenVino(folder / "model.xml")


@pytest.fixture(scope="module")
def engine_bf16(folder):
    has_it = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return OpenVino(folder / "model.xml", "bf16") if has_it else None


def test_every_validation_image_has_the_same_pixels_class_and_probabilities(folder):
    (engine,) = ParityReport.read(folder / "parity.json").engines
    assert engine.engine.startswith("openvino")
    assert engine.images == engine.same_top1 > 0
    assert engine.differing_pixel_values == 0 and engine.tolerance == 1e-4


def test_the_folder_predicts_files_of_every_kind_as_the_run_does(folder, run, varied):
    table = from_paths([str(varied)])
    own = run.predictions(table).calibrated(run.temperature).probabilities_NK
    theirs = np.concatenate([part.probabilities_NK for part in ExportedModel(folder).stream(table)])
    np.testing.assert_allclose(theirs, own, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 375, 500), (2, 333, 200), (1, 31, 47), (1, 1, 1), (1, 2, 900), (3, 24, 24)])
def test_pixels_are_exact_also_where_the_network_is_computed_in_bf16(engine, engine_bf16, run, shape):
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with torch.no_grad():
        probabilities, pixels = ImageProgram(in_fp32(run))(torch.from_numpy(images))
    found, found_pixels = engine.run(images)
    np.testing.assert_array_equal(found_pixels, pixels)
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    if engine_bf16 is not None:
        np.testing.assert_array_equal(engine_bf16.run(images)[1], pixels)


def test_the_files_say_what_they_are(folder, run):
    model = core().read_model(folder / "model.xml")
    assert json.loads(model.get_rt_info(["loupe", "classes"]).astype(str)) == list(run.classes)
    assert model.get_rt_info(["loupe", "weights_blake2b"]).astype(str) == run.config.weights_blake2b


@pytest.mark.parametrize(
    "shape", [(1, 0, 8, 3), (1, 8, 0, 3), (1, 8, 8, 4), (8, 8, 3), (1, 1, MAX_PIXELS + 1, 3), (1, 50_000, 50_000, 3)]
)
def test_what_it_cannot_take_is_an_error_and_no_crash(engine, shape):
    with pytest.raises(DataError):
        engine.run(np.zeros(shape, np.uint8))  # memory that is never touched


def test_an_empty_image_is_an_error_in_openvino_itself(engine):
    with pytest.raises(RuntimeError, match="shape"):
        engine._compiled({0: np.zeros((1, 0, 8, 3), np.uint8)})


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_several_callers_get_the_answers_of_one(kind, exported, folder):
    model = exported / "model.onnx" if kind == "onnx" else folder / "model.xml"
    random = np.random.default_rng(0)
    shapes = [(1 + i % 3, 20 + i, 30, 3) for i in range(6)]  # for each, OpenVINO compiles the network again
    images = [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    alone = [runner_of(model).run(one)[0] for one in images]
    shared = runner_of(model, 2)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda one: shared.run(one)[0], images * 3))
    for one, wanted in zip(found, alone * 3, strict=True):
        np.testing.assert_allclose(one, wanted, atol=1e-6)
