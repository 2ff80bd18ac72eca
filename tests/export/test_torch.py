"""Exported PyTorch program: the same pixels, classes and probabilities as the run, and files with code are refused."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.limits import MAX_PIXELS
from loupe.data.sources.folders import from_paths
from loupe.errors import ExportRefusedError
from loupe.export.export import export_model
from loupe.export.parity import ParityReport
from loupe.export.predictor import ExportedModel
from loupe.export.program import ImageProgram
from loupe.export.torch_file import torch_file
from loupe.export.torch_runner import TorchProgram, check_archive
from loupe.models.build import build

pytestmark = pytest.mark.slow  # recording and loading a program takes seconds


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    return export_model(run, "torch", folder=tmp_path_factory.mktemp("made") / "torch")


@pytest.fixture(scope="module")
def program(folder) -> TorchProgram:
    return TorchProgram(folder / "model.pt2")


def test_every_validation_image_has_the_same_pixels_class_and_probabilities(folder):
    (engine,) = ParityReport.read(folder / "parity.json").engines
    assert engine.engine == f"torch {torch.__version__}"
    assert engine.images == engine.same_top1 > 0
    assert engine.differing_pixel_values == 0 and engine.tolerance == 1e-4
    assert max(engine.largest_difference, engine.largest_difference_in_batches) <= 1e-4


def test_the_folder_predicts_files_of_every_kind_as_the_run_does(folder, run, varied):
    table = from_paths([str(varied)])
    own = run.predictions(table).calibrated(run.temperature).probabilities_NK
    theirs = np.concatenate([part.probabilities_NK for part in ExportedModel(folder).stream(table)])
    assert (own.argmax(axis=1) == theirs.argmax(axis=1)).all()
    np.testing.assert_allclose(theirs, own, atol=1e-4)


def test_the_program_says_what_it_is_and_nothing_of_the_machine(folder, run):
    texts = {"classes": "", "temperature": "", "weights_blake2b": ""}
    torch.export.load(folder / "model.pt2", extra_files=texts)
    assert json.loads(texts["classes"]) == list(run.classes)
    assert float(texts["temperature"]) == run.temperature
    assert texts["weights_blake2b"] == run.config.weights_blake2b
    assert str(Path(__file__).parents[2]).encode() not in (folder / "model.pt2").read_bytes()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
        np.zeros((1, 8, 0, 3), np.uint8),
        np.zeros((1, 1, MAX_PIXELS + 1, 3), np.uint8),  # memory that is never touched
        np.zeros((1, 50_000, 50_000, 3), np.uint8),
    ],
    ids=["floats", "one image", "four channels", "no rows", "no columns", "too many pixels", "50,000 x 50,000"],
)
def test_what_it_cannot_take_is_an_error_and_no_crash(program, images):
    with pytest.raises(Exception, match=r"dtype|tuple index|size|image_is_empty"):
        program._program(torch.from_numpy(images))


def rewritten(folder: Path, changes: dict[str, bytes]) -> bytes:
    """The archive with some records replaced or added."""
    from torch.export.pt2_archive._package import PT2ArchiveReader, PT2ArchiveWriter

    archive = PT2ArchiveReader(str(folder / "model.pt2"))
    own = {name: archive.read_bytes(name) for name in archive.get_file_names()}
    for name in (".data/version", ".data/serialization_id", "byteorder"):  # the writer adds them
        own.pop(name, None)
    file = io.BytesIO()
    with PT2ArchiveWriter(file) as writer:
        for name, data in {**own, **changes}.items():
            writer.write_bytes(name, data)
    return file.getvalue()


class Touch:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def record(folder: Path, name: str) -> dict:
    from torch.export.pt2_archive._package import PT2ArchiveReader

    return json.loads(PT2ArchiveReader(str(folder / "model.pt2")).read_string(name))


WEIGHTS, MODEL = "data/weights/model_weights_config.json", "models/model.json"


def with_code(folder: Path, kind: str, marker: Path) -> dict[str, bytes]:
    """Records in which code stands, of one kind."""
    pickled = io.BytesIO()
    torch.save(Touch(marker), pickled)
    call = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    model = record(folder, MODEL)
    nodes = model["graph_module"]["graph"]["nodes"]
    if kind == "example":
        return {"data/sample_inputs/model.pt": pickled.getvalue()}
    if kind == "weight":
        config = record(folder, WEIGHTS)
        first = next(iter(config["config"].values()))
        first["use_pickle"] = True
        return {WEIGHTS: json.dumps(config).encode(), f"data/weights/{first['path_name']}": pickled.getvalue()}
    if kind == "old weights":
        return {"data/weights/model.pt": pickled.getvalue()}
    if kind == "constant":
        name = "data/constants/model_constants_config.json"
        config = {"config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False}}}
        config["config"]["x"]["tensor_meta"] = None
        return {name: json.dumps(config).encode(), "data/constants/opaque_obj_0": pickle.dumps(Touch(marker))}
    if kind == "library":
        return {"data/aotinductor/model/model.so": b"\x7fELF"}
    if kind == "guard":
        model["guards_code"] = [f"{call} or True"]
    elif kind == "size":
        text = json.dumps(model).replace("Integer(8)", json.dumps(call)[1:-1], 1)
        return {MODEL: text.encode()}
    elif kind == "function":
        nodes[0]["target"] = "torch.load"
    elif kind == "name":
        nodes[0]["name"] = "x = 1\nprint"
    else:
        imported = json.dumps({"__enum__": True, "fqn": "os.path:join", "name": "x"})
        kinds = {"container": ("collections.defaultdict", "{}"), "context": ("builtins.tuple", imported)}
        spec = json.dumps([1, dict(zip(("type", "context"), kinds[kind], strict=True), children_spec=[])])
        model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec
    return {MODEL: json.dumps(model).encode()}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("example", "example is pickled"),
        ("weight", "tensor .* is pickled"),
        ("old weights", "record 'data/weights/model.pt'"),
        ("constant", "record 'data/constants/opaque_obj_0'"),
        ("library", "record 'data/aotinductor"),
        ("guard", "guards_code"),
        ("size", "expr_str"),
        ("function", "target 'torch.load'"),
        ("name", "name 'x = 1"),
        ("container", "in_spec"),
        ("context", "in_spec"),
    ],
)
def test_a_file_with_code_is_refused_and_nothing_is_executed(folder, tmp_path, kind, said):
    marker = tmp_path / "executed"
    (tmp_path / "model.pt2").write_bytes(rewritten(folder, with_code(folder, kind, marker)))
    with pytest.raises(ExportRefusedError, match=said):
        TorchProgram(tmp_path / "model.pt2")
    assert not marker.exists()


def test_a_file_that_is_only_written_again_is_not_refused(folder):
    check_archive(rewritten(folder, {}))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02}q\x00."], ids=["empty", "zip", "pickle"])
def test_a_file_of_another_kind_is_refused(tmp_path, data):
    (tmp_path / "model.pt2").write_bytes(data)
    with pytest.raises(ExportRefusedError, match="cannot read it"):
        TorchProgram(tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_050"])
def test_networks_of_timm_are_read_back_and_predict_the_same(tmp_path, name):
    normalisation = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    preprocessing = Preprocessing(size_px=64, load_px=74, interpolation="bicubic", **normalisation)
    model = build(BackboneSpec(backbone=name, weights="none"), preprocessing, ("a", "b", "c"), seed=0).eval()
    program = ImageProgram(model).eval()
    (tmp_path / "model.pt2").write_bytes(torch_file(program, {}))
    images = np.random.default_rng(0).integers(0, 256, (7, 90, 131, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted, wanted_pixels = program(torch.from_numpy(images))
    found, found_pixels = TorchProgram(tmp_path / "model.pt2").run(images)
    np.testing.assert_array_equal(found_pixels, wanted_pixels)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
