"""150 real photographs under load: the answers of `loupe predict --json`, for a run and for its export."""

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from server_process import ask, assert_same, predicted, serving

import loupe
from loupe.export.export import export_model

IMAGES, CLIENTS = 150, 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photographs(real_data) -> list[Path]:
    paths = sorted((real_data / "cats_vs_dogs" / "val").rglob("*.jpg"))
    return random.Random(0).sample(paths, IMAGES)


@pytest.fixture(scope="module")
def run(real_data, photographs, tmp_path_factory) -> loupe.Run:
    folder = tmp_path_factory.mktemp("few")
    for path in sorted((real_data / "cats_vs_dogs" / "train").rglob("*.jpg"))[::40]:
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / path.parent.name / path.name)
    weights = real_data / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    output = tmp_path_factory.mktemp("runs")
    return loupe.train(folder, recipe="features", weights=str(weights), output=output, device="cpu", quiet=True)


def check(folder, photographs, tmp_path):
    wanted = predicted(folder, photographs, tmp_path, top=2)
    parts, left, draws = [], list(photographs), random.Random(1)
    while left:
        size = draws.choice((1, 1, 2, 5, 16))
        parts, left = [*parts, left[:size]], left[size:]
    with (
        serving(tmp_path / "serve.log", folder, "--queue", 1000) as server,
        server.client() as client,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        answers = list(threads.map(lambda part: ask(client, part, "top=2"), parts))
    for part, answer in zip(parts, answers, strict=True):
        assert answer.status_code == 200, answer.text
        for path, image in zip(part, answer.json()["images"], strict=True):
            assert_same(image, wanted[str(path)])


def test_a_run_answers_as_predict_does(run, photographs, tmp_path):
    check(run.path, photographs, tmp_path)


def test_an_export_answers_as_predict_does(run, photographs, tmp_path):
    pytest.importorskip("onnxscript")
    check(export_model(run, "onnx", folder=tmp_path / "onnx"), photographs, tmp_path)
