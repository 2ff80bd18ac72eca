"""The page with the real ONNX Runtime Web, from the npm registry: in Chromium it answers as in Python."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import web_pages
from browsers import chromium
from builders import save_photos
from loupe.data.pixels.decode import decode
from loupe.errors import ExportRefusedError
from loupe.export import web, web_gate, web_runtime, web_target
from loupe.export.export import in_fp32, reference_of, samples_of
from loupe.export.job import Job

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
CLASSES = tuple("abcdef")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> web_runtime.Runtime:
    """The published runtime, as `npm pack` has it, in a cache of this file's own."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    cache = tmp_path_factory.mktemp("cache")
    (cache / "runtimes").mkdir()
    words = [npm, "pack", f"onnxruntime-web@{web_runtime.VERSION}", "--prefer-offline", "--silent"]
    packed = subprocess.run(words, cwd=cache / "runtimes", capture_output=True, text=True, timeout=300)
    if packed.returncode:
        pytest.skip(f"the npm registry did not answer: {packed.stderr[-200:]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOUPE_CACHE", str(cache))
        return web_runtime.published()


def network() -> bytes:
    """Resizing, one convolution, average pooling and a linear head, with maps, of random weights."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    values = {
        "sizes": np.array([1, 3, 32, 32], np.int64),
        "kernel": random.normal(size=(8, 3, 3, 3)).astype(np.float32) / 2000,
        "head": random.normal(size=(len(CLASSES), 8, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["small"], mode="linear"),
        helper.make_node("Conv", ["small", "kernel"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "head"], ["maps"]),
        helper.make_node("ReduceMean", ["maps"], ["pooled"], keepdims=0, axes=[2, 3]),
        helper.make_node("Softmax", ["pooled"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(CLASSES)]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", len(CLASSES), "h", "w"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, runtime) -> tuple[Path, bytes]:
    folder, model = tmp_path_factory.mktemp("export"), network()
    web.write(
        folder,
        model,
        classes=CLASSES,
        preprocessing=web_pages.PREPROCESSING,
        title="Letters",
        runtime=runtime,
    )
    return folder / web.PAGE, model


def test_chromium_answers_as_python_does(exported, tmp_path):
    for _ in chromium():  # skips, or fails, where there is none
        pass
    page, model = exported
    folder = save_photos(tmp_path, ("dark", "bright"), each=6)
    paths = sorted(folder.rglob("*.jpg"))
    (tmp_path / "damaged.jpg").write_bytes(paths[0].read_bytes()[:500])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = [
        session.run(["probabilities"], {"images": np.asarray(decode(path.read_bytes(), path.name))[None]})[0][0]
        for path in paths
    ]
    found = web_gate.answers(page, [*paths[:3], tmp_path / "damaged.jpg", *paths[3:]])
    assert [path.name for path in found.refused] == ["damaged.jpg"] and np.isnan(found.probability_NK[3]).all()
    found_NK = np.delete(found.probability_NK, 3, axis=0)
    assert np.abs(found_NK - expected).max() < web_gate.LARGEST_DIFFERENCE
    assert found.misses(np.insert(np.array(expected), 3, 0.0, axis=0))["top1"] == 1, "the damaged one"
    assert np.ptp(found_NK, axis=0).max() > 0.05, "the images differ"
    assert found.browser.startswith("Chromium ") and found.first_seconds > 0


def test_a_run_on_varied_photographs_answers_the_same_in_the_page(run, runtime, tmp_path, monkeypatch):
    """Tall, wide, small and grey photographs, with alpha and turned by EXIF, from their files on."""
    for _ in chromium():
        pass
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(web_runtime, "published", lambda: runtime)
    model, samples = in_fp32(run), samples_of(run, None)
    web_target.write(Job(run, model, tmp_path))
    found = web_gate.compare_page(tmp_path / web.PAGE, samples, reference_of(model))
    assert found.images == found.same_top1 == len(samples) and found.largest_difference < 1e-4

    def swapped(pixels: np.ndarray) -> np.ndarray:
        return reference_of(model)(pixels)[:, ::-1]

    with pytest.raises(ExportRefusedError, match=f"another class for {len(samples)} of {len(samples)}"):
        web_gate.compare_page(tmp_path / web.PAGE, samples, swapped)
