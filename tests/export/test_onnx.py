"""Exported ONNX: the same pixels, classes and probabilities as the run, and errors for what it cannot take."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import loupe
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.limits import MAX_PIXELS
from loupe.data.sources.folders import from_paths
from loupe.errors import ConfigError, DataError, ExportRefusedError
from loupe.export import export as composition
from loupe.export.export import export_model
from loupe.export.folder import MANIFEST, Manifest, open_manifest
from loupe.export.job import Written
from loupe.export.parity import Gate, ParityReport
from loupe.export.predictor import ExportedModel
from loupe.export.program import ImageProgram
from loupe.export.resize_in_fp32 import resize_in_fp32
from loupe.export.runners import OnnxRuntime
from loupe.models.build import build
from loupe.models.catalog import NETWORKS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from loupe.export.onnx_file import OPSET, onnx_file  # noqa: E402

pytestmark = pytest.mark.slow  # the exporter takes twenty seconds to load and to record a network


def session(folder):
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


def test_every_validation_image_has_the_same_pixels_class_and_probabilities(exported, run):
    report = ParityReport.read(exported / "parity.json")
    images = run.results.dataset.splits["val"] if hasattr(run.results.dataset, "splits") else None
    assert report.engines[0].engine.startswith("onnxruntime")
    for engine in report.engines:
        assert engine.images == engine.same_top1 > 0 and (images is None or engine.images == images)
        assert max(engine.largest_difference, engine.largest_difference_in_batches) <= engine.tolerance
        assert engine.pixel_values == engine.images * 24 * 24 * 3
        assert engine.differing_pixel_values == 0 and engine.tolerance == 1e-4


def test_it_predicts_files_of_every_kind_as_the_run_does(exported, run, varied):
    table = from_paths([str(varied)])
    own = run.predictions(table).calibrated(run.temperature).probabilities_NK
    parts = list(ExportedModel(exported).stream(table))
    theirs = np.concatenate([part.probabilities_NK for part in parts])
    assert [path for part in parts for path in part.path] == list(table.paths)
    assert (own.argmax(axis=1) == theirs.argmax(axis=1)).all()
    np.testing.assert_allclose(theirs, own, atol=1e-4)


def test_the_card_is_that_of_the_run_and_of_the_target(exported, run):
    data = ModelCard.load(exported / "card.md").data
    assert data.library_name == "onnx" and "onnx" in data.tags
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert values["accuracy"] == run.results.test.accuracy.value


def test_the_file_is_standard_and_says_what_it_is(exported, run):
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", OPSET)]
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(texts["classes"]) == list(run.classes)
    assert float(texts["temperature"]) == run.temperature
    assert Preprocessing.model_validate_json(texts["preprocessing"]) == run.preprocessing
    assert texts["weights_blake2b"] == run.config.weights_blake2b


def test_prepared_images_in_a_batch_are_a_valid_input(exported):
    images = np.random.default_rng(0).integers(0, 256, (7, 24, 24, 3), dtype=np.uint8)
    probabilities, pixels = session(exported).run(["probabilities", "pixels"], {"images": images})
    np.testing.assert_array_equal(pixels, images)
    assert probabilities.shape == (7, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
        np.zeros((1, 8, 0, 3), np.uint8),
        np.zeros((1, 1, MAX_PIXELS + 1, 3), np.uint8),  # memory that is never touched
    ],
    ids=["floats", "one image", "four channels", "no rows", "no columns", "too many pixels"],
)
def test_what_it_cannot_take_is_an_error_and_no_crash(exported, images):
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT|Non-zero status|image_is_empty"):
        session(exported).run(None, {"images": images})


def test_50_000_by_50_000_pixels_are_refused_before_anything_is_computed(exported):
    images = np.zeros((1, 50_000, 50_000, 3), np.uint8)  # memory that is never touched
    with pytest.raises(Exception, match=f"more_than_{MAX_PIXELS}_pixels"):
        session(exported).run(None, {"images": images})


def test_evaluation_of_the_folder_is_that_of_the_run(exported, run, varied):
    theirs = ExportedModel(exported).evaluate("val", varied)
    assert theirs.images == 30
    own = run.predictions(from_paths([str(varied)]))
    wanted = np.mean([run.classes[k] == path.split("/")[-2] for k, path in zip(own.predicted, own.path, strict=True)])
    assert theirs.accuracy.value == pytest.approx(wanted)


def copied(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    return folder


def test_a_changed_file_is_refused(exported, tmp_path):
    folder = copied(exported, tmp_path)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(ExportRefusedError, match=r"model\.onnx was changed"):
        ExportedModel(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(ExportRefusedError, match="cannot be read"):
        ExportedModel(folder)


def test_weights_in_other_files_are_refused(exported, tmp_path):
    folder = copied(exported, tmp_path)
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    manifest = Manifest.read(folder / MANIFEST)
    changed = manifest.model_copy(update={"files": targets_hashes(folder)})
    changed.write(folder / MANIFEST)
    with pytest.raises(ExportRefusedError, match="other files"):
        open_manifest(folder)


def targets_hashes(folder):
    from loupe.export.folder import hashes

    return {name: digest for name, digest in hashes(folder).items() if name in {"model.onnx", "weights"}}


def test_weights_of_an_operator_in_other_files_are_refused(exported, tmp_path):
    folder = copied(exported, tmp_path)
    model = onnx.load(folder / "model.onnx")
    tensor = onnx.TensorProto(name="x", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["unused"], value=tensor))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    Manifest.read(folder / MANIFEST).model_copy(update={"files": targets_hashes(folder)}).write(folder / MANIFEST)
    with pytest.raises(ExportRefusedError, match="other files"):
        open_manifest(folder)


def test_a_model_of_another_kind_is_not_opened(exported, tmp_path):
    folder = copied(exported, tmp_path)
    manifest = Manifest.read(folder / MANIFEST)
    (folder / "model.onnx").rename(folder / "model.bin")
    changes = {"model": "model.bin", "files": {"model.bin": manifest.files["model.onnx"]}}
    manifest.model_copy(update=changes).write(folder / MANIFEST)
    with pytest.raises(ExportRefusedError):
        open_manifest(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_files_outside_the_folder_are_not_read(exported, tmp_path, name):
    folder = copied(exported, tmp_path)
    manifest = Manifest.read(folder / MANIFEST)
    manifest.model_copy(update={"files": {**manifest.files, name: "0" * 32}}).write(folder / MANIFEST)
    with pytest.raises(ExportRefusedError, match="outside"):
        open_manifest(folder)


class Wrong:
    """Engine that answers as another one would, changed by a function."""

    name = "wrong 1.0"

    def __init__(self, runner, change):
        self.runner, self.change = runner, change

    def run(self, images):
        return self.change(*self.runner.run(images))


def copying(exported, change=lambda p, x: (p, x)):
    """Target that copies a model which was exported before, for its engine to answer with a change."""

    def write(job):
        shutil.copy(exported / "model.onnx", job.folder)
        runner = Wrong(OnnxRuntime(job.folder / "model.onnx"), change)
        return Written("model.onnx", (Gate(runner, 1e-4),), "")

    return write


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p, x: (p[:, ::-1], x), "another class"),
        (lambda p, x: (np.clip(p + 2e-4, 0, 1), x), "differ by up to 0.0002"),
        (lambda p, x: (p * np.nan, x), "another class|differ"),
        (lambda p, x: (p, x ^ 1), "pixel values differ"),
    ],
    ids=["class", "probability", "not a number", "pixels"],
)
def test_a_model_that_predicts_otherwise_is_not_exported(run, exported, tmp_path, monkeypatch, change, said):
    monkeypatch.setitem(composition.TARGETS, "onnx", copying(exported, change))
    with pytest.raises(ExportRefusedError, match=said):
        export_model(run, "onnx", folder=tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_never_overwritten(run, exported):
    with pytest.raises(ConfigError, match="exists"):
        export_model(run, "onnx")


def test_an_unknown_target_has_the_nearest_names(run):
    with pytest.raises(ConfigError, match="onnx"):
        export_model(run, "onxx")


def test_images_to_compare_on_can_be_given(run, exported, varied, tmp_path, monkeypatch):
    monkeypatch.setitem(composition.TARGETS, "onnx", copying(exported))
    folder = export_model(run, "onnx", folder=tmp_path / "made", images=varied / "dark")
    assert ParityReport.read(folder / "parity.json").engines[0].images == 15


def test_a_folder_without_images_to_compare_on(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        export_model(run, "onnx", folder=tmp_path / "made", images=tmp_path / "empty")


def test_a_damaged_image_is_named(exported, varied, tmp_path):
    good = next((varied / "dark").glob("*.jpg"))
    (tmp_path / "good.jpg").write_bytes(good.read_bytes())
    (tmp_path / "bad.jpg").write_bytes(good.read_bytes()[:200])
    table = from_paths([str(tmp_path)])
    with pytest.raises(loupe.DamagedImages, match=r"bad\.jpg"):
        list(ExportedModel(exported).stream(table))
    parts = list(ExportedModel(exported).stream(table, skip_damaged=True))
    assert [path for part in parts for path in part.path] == [path for path in table.paths if "good" in path]


# Batch norms that are folded; gates and hard activations; layer norms; attention; rolled windows. Padding as
# TensorFlow does is in test_real_weights.py.
FAMILIES = ["resnet18", "mobilenetv3_small_050", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224"]


def nearest(images, size, mode, interpolation):
    """In place of the resizing, which takes most of the time of an export."""
    _, height, width, _ = images.shape
    rows, columns = (torch.arange(many) * given // many for many, given in zip(size, (height, width), strict=True))
    return images[:, rows][:, :, columns].float()


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_timm_predict_the_same_in_onnx_runtime(name):
    side = 224 if "swin" in name else 64
    preprocessing = Preprocessing(size_px=side, load_px=side + 8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model = build(BackboneSpec(backbone=name, weights="none"), preprocessing, ("a", "b", "c"), seed=0).eval()
    same(ImageProgram(model, resizing=nearest).eval())


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_of_loupe_predict_the_same_in_onnx_runtime(name):
    preprocessing = Preprocessing(size_px=32, load_px=36, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    model = build(NETWORKS[name](), preprocessing, ("a", "b", "c"), seed=0).eval()
    same(ImageProgram(model, resizing=nearest).eval())


@pytest.mark.parametrize(("interpolation", "resize"), [("bilinear", "pad"), ("bicubic", "squash"), ("lanczos", "crop")])
def test_every_way_to_resize_is_exported(interpolation, resize):
    """Every filter and every way to fit; all pairs of them are in test_resize.py."""
    preprocessing = Preprocessing(
        size_px=(20, 28), load_px=(24, 32), resize=resize, interpolation=interpolation, channels=1
    )
    model = build(NETWORKS["simple-cnn"](), preprocessing, ("a", "b", "c"), seed=0).eval()
    same(ImageProgram(model, resizing=resize_in_fp32).eval())


def same(program):
    file = onnx_file(program, {})
    runtime = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in [(1, 300, 200, 3), (7, 90, 131, 3)]:
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        probabilities, pixels = runtime.run(["probabilities", "pixels"], {"images": images})
        with torch.no_grad():
            wanted, wanted_pixels = program(torch.from_numpy(images))
        other = pixels != wanted_pixels.numpy()
        if program.model.preprocessing.interpolation == "lanczos":  # its sines are not equal in their last bits
            assert other.mean() < 1e-3 and np.abs(pixels.astype(int) - wanted_pixels.numpy()).max() <= 1
        else:
            assert not other.any()
        assert (probabilities.argmax(axis=1) == wanted.numpy().argmax(axis=1)).all()
        np.testing.assert_allclose(probabilities, wanted, atol=1e-4)


def test_grey_images_are_made_grey_as_pillow_does(varied):
    from loupe.export.program import grey

    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    found = grey(torch.from_numpy(pixels)[None])[0, ..., 0].numpy()
    np.testing.assert_array_equal(found, expected)
