"""The engine that is settled when a model is saved: it gives PyTorch's answers, without PyTorch, or is not taken."""

import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import loupe
from builders import save_photos
from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.devices import Compute
from loupe.errors import RunStateError
from loupe.evaluate.predictions import Predictions
from loupe.models import engine_choice, openvino_network
from loupe.models.bundle_config import STORED_NETWORK, BundleConfig
from loupe.models.cnn import cnn
from loupe.models.engine import TorchEngine
from loupe.models.torch_network import TorchNetwork
from loupe.runs.predictor import Predictor

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow  # converting a backbone takes seconds

CPU = Compute(torch.device("cpu"), "fp32")
SETTINGS = {
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "input.size_px": 32,
    "input.load_px": 36,
}
SLOW = ("torch", "timm", "torchvision", "sklearn", "matplotlib")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("engine") / "photos", ("cat", "dog"), each=20)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A run whose network is small, and is converted all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_choice, "SMALLEST_FLOP", 0)
        patch.setenv("LOUPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("loupe.report.run_page.write_page", lambda run: None)
        output = tmp_path_factory.mktemp("runs")
        return loupe.train(
            photos, recipe="features", epochs=11, settings=SETTINGS, output=output, name="run", device="cpu", quiet=True
        ).path


@pytest.mark.slow
def test_test_images_of_a_network_that_was_trained_whole_are_evaluated_by_the_engine(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_choice, "SMALLEST_FLOP", 0)
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("loupe.report.run_page.write_page", lambda run: None)
    settings = {**SETTINGS, "stages.0.epochs": 1, "stages.1.epochs": 1, "precision": "fp32"}
    run = loupe.train(photos, recipe="finetune", settings=settings, output=tmp_path, device="cpu", quiet=True)
    assert run.config.engine is not None and run.config.engine.compared_images == run.results.images.val
    stored = {name: Predictions.read(run.path / "predictions.csv", name) for name in ("val", "test")}
    np.testing.assert_array_equal(run.predictions_of("test").logits_NK, stored["test"].logits_NK)
    np.testing.assert_allclose(run.predictions_of("val").logits_NK, stored["val"].logits_NK, rtol=1e-3, atol=1e-4)
    assert not [*(tmp_path / "cache").glob("models/*/network.bin")], "a trained trunk is not kept"


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_the_stored_engine_gives_the_answers_of_pytorch_to_the_bound(trained, photos):
    run = loupe.load(trained, device="cpu")
    settled = run.config.engine
    assert settled is not None and run.engine.name == f"openvino-{settled.precision}"
    assert 0 <= settled.largest_difference <= engine_choice.LARGEST_DIFFERENCE
    assert settled.compared_images == run.results.images.val
    in_torch = Predictor(trained / "model", device="cpu", engine=TorchEngine)
    np.testing.assert_allclose(run.predict_proba(photos), in_torch.predict_proba(photos), atol=1e-3)
    assert run.predict(photos) == in_torch.predict(photos)
    assert run.evaluate("val").accuracy == run.results.validation.accuracy
    assert run.images_per_second() > 0


@pytest.mark.parametrize("tta", ["flip", "flip-shift"])
def test_test_time_augmentation_runs_on_the_stored_engine(trained, photos, tta):
    run = loupe.load(trained, device="cpu", tta=tta)
    in_torch = Predictor(trained / "model", device="cpu", engine=TorchEngine, tta=tta)
    assert (run.engine.name, in_torch.engine.name) == (f"openvino-fp32, {tta}", f"pytorch-fp32, {tta}")
    averaged = run.predict_proba(photos)
    np.testing.assert_allclose(averaged, in_torch.predict_proba(photos), atol=1e-3)
    assert np.abs(averaged - loupe.load(trained, device="cpu").predict_proba(photos)).max() > 1e-5


@pytest.mark.parametrize("tta", [[], ["--tta", "flip"]])
def test_a_command_that_predicts_in_openvino_loads_neither_pytorch_nor_other_slow_packages(
    trained, photos, tmp_path, tta
):
    words = ["loupe", "predict", str(trained), str(photos / "cat" / "1.jpg"), *tta]
    code = (
        f"import sys\nsys.argv = {words!r}\n"
        "from loupe.cli.main import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', *set({SLOW}) & set(sys.modules))"
    )
    environment = {**os.environ, "LOUPE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert ran.stdout.rpartition("LOADED")[2].split() == []
    assert (tmp_path / "predictions.csv").read_text().count("\n") == 2


def test_openvino_is_imported_without_its_telemetry():
    code = (
        "import sys\nfrom loupe.models.openvino_import import openvino\nopenvino()\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__, 'openvino_telemetry' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]


def test_without_openvino_pytorch_predicts_and_one_line_says_so(trained, photos, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "loupe")
    wanted = loupe.load(trained, device="cpu").predict(photos)
    monkeypatch.setattr(openvino_network, "find_spec", lambda name: None)
    run = loupe.load(trained, device="cpu")
    assert run.predict(photos) == wanted
    assert run.engine.name == "pytorch-fp32"
    assert [record.message for record in caplog.records if "OpenVINO" in record.message] == [
        "predicting in PyTorch: OpenVINO, which predicts faster, is not installed: pip install openvino."
    ]


def test_a_network_that_openvino_cannot_read_falls_back_to_pytorch(trained, photos, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "loupe")

    def refuse(*given):
        raise RuntimeError("unsupported\nopset")

    monkeypatch.setattr(openvino_network.OpenVinoNetwork, "__init__", refuse)
    assert loupe.load(trained, device="cpu").engine.name == "pytorch-fp32"
    assert "unsupported opset" in caplog.text


@pytest.mark.parametrize("name", STORED_NETWORK)
@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_files_of_the_stored_network_that_do_not_belong_to_the_bundle_are_refused(copied, name, harm):
    file = copied / "model" / name
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunStateError, match=name):
        _ = loupe.load(copied, device="cpu").engine


def test_a_bundle_from_before_stored_engines_predicts_in_pytorch(copied, photos):
    path = copied / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["engine"]
    path.write_text(json.dumps(config))
    run = loupe.load(copied, device="cpu")
    assert run.engine.name == "pytorch-fp32" and len(run.predict(photos)) == 40


@pytest.mark.parametrize(
    "changes", [{"library": "onnx"}, {"precision": "int8"}, {"network_blake2b": 1}, {"version": []}]
)
def test_a_hostile_description_of_an_engine_is_refused(copied, changes):
    path = copied / "model" / "config.json"
    config = json.loads(path.read_text())
    config["engine"] |= changes
    path.write_text(json.dumps(config))
    with pytest.raises(RunStateError, match="engine"):
        BundleConfig.read(path)


@pytest.mark.parametrize(
    "changes", [{"classes": ["cat", "dog", "eel"]}, {"preprocessing": {"size_px": 32, "load_px": 40}}]
)
def test_a_stored_network_of_other_shapes_than_the_bundle_is_refused(copied, changes):
    path = copied / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RunStateError, match=STORED_NETWORK[0]):
        _ = loupe.load(copied, device="cpu").engine


def pixels(row_N):
    return np.random.default_rng(0).integers(0, 256, (len(row_N), 36, 36, 3), np.uint8)


def chosen(model, spec, cache, images=8, compute=CPU, evaluated_NK=None, in_torch=False):
    given_NK = np.zeros((images, 2), np.float32) if evaluated_NK is None else evaluated_NK
    return engine_choice.choose_engine(
        model,
        spec,
        compute,
        read=pixels,
        row_N=np.arange(images),
        evaluated_NK=given_NK,
        in_torch=in_torch,
        cache=cache,
    )


@pytest.mark.slow
def test_a_network_of_other_answers_is_not_taken(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(engine_choice, "SMALLEST_FLOP", 0)
    run = loupe.load(trained, device="cpu")
    wrong_NK = np.array([[9, 0], [0, 9]] * 4, np.float32)
    taken, reason = chosen(run.model, run.config.network, tmp_path, evaluated_NK=wrong_NK, in_torch=True)
    assert taken is None and "differ" in reason and not [*tmp_path.iterdir()]
    run.model.learn("head")
    run.model.train()
    taken, _ = chosen(run.model, run.config.network, tmp_path)
    assert taken is not None and taken.engine.compared_images == 8 and run.model.training
    [kept] = tmp_path.iterdir()
    taken, _ = chosen(run.model, run.config.network, tmp_path, evaluated_NK=wrong_NK)
    assert taken is None, "a kept trunk is compared with the evaluation"
    (kept / "network.bin").write_bytes(b"")
    assert chosen(run.model, run.config.network, tmp_path)[0] is not None, "a damaged trunk is converted again"


def test_small_backbones_and_other_precisions_stay_with_pytorch(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(engine_choice, "convert", None)
    run = loupe.load(trained, device="cpu")
    assert chosen(run.model, run.config.network, tmp_path) == (None, "")
    monkeypatch.setattr(engine_choice, "SMALLEST_FLOP", 0)
    in_bf16 = Compute(torch.device("cpu"), "bf16")
    assert chosen(run.model, run.config.network, tmp_path, compute=in_bf16) == (None, "")
    assert chosen(run.model, run.config.network, tmp_path, images=0) == (None, "")


@pytest.mark.parametrize("in_torch", [True, False])
def test_every_network_of_loupe_is_converted_and_compared(monkeypatch, tmp_path, in_torch):
    monkeypatch.setattr(engine_choice, "flop", None)
    monkeypatch.setattr(engine_choice, "COMPARED_IMAGES", 4)
    spec = CnnSpec(name="tiny", blocks=(ConvBlock(filters=(4,)),))
    network = cnn(spec, Preprocessing(size_px=32, load_px=36), ("a", "b"), seed=0)
    in_pytorch = TorchNetwork(network.eval(), CPU)
    right_NK = np.concatenate([*in_pytorch.run(iter([pixels(np.arange(20))]))])
    taken, reason = chosen(network, spec, tmp_path, images=20, evaluated_NK=right_NK, in_torch=in_torch)
    assert taken is not None and not reason
    assert taken.engine.compared_images == (20 if in_torch else 4)
    assert not [*tmp_path.iterdir()]
    taken, reason = chosen(network, spec, tmp_path, images=20, evaluated_NK=right_NK[:, ::-1], in_torch=in_torch)
    assert (taken is None) == in_torch, "PyTorch computes the answers that it has not computed"


def test_operations_are_counted_twice_for_each_product():
    network = cnn(CnnSpec(name="tiny", blocks=()), Preprocessing(size_px=8, load_px=8), ("a", "b"), seed=0)
    assert engine_choice.flop(network) == 2 * sum(
        p.numel() for n, p in network.named_parameters() if n.endswith("weight")
    )


def test_disagreement_is_of_probabilities_and_whole_for_another_class():
    wanted_NK = np.array([[1, 0], [0, 2]], np.float32)
    other_NK = np.array([[1.1, 0], [0, 2]], np.float32)
    expected = 1 / (1 + np.exp(-1.1)) - 1 / (1 + np.exp(-1.0))
    assert engine_choice.disagreement(other_NK, wanted_NK) == pytest.approx(expected, rel=1e-5)
    assert engine_choice.disagreement(wanted_NK[:, ::-1], wanted_NK) == 1.0
