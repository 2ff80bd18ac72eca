"""Export for timm: timm and transformers load the folder under their own names and give Loupe's logits."""

import json
import math
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.config import resolve_data_config
from torch import nn

import loupe
from builders import without_slow_parts
from loupe.config.network import BackboneSpec, Dense
from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError, ExportRefusedError
from loupe.export import timm_folder, timm_runner
from loupe.export.export import export_model
from loupe.export.parity import ParityReport
from loupe.models.build import build
from loupe.models.catalog import NETWORKS
from loupe.models.classifier import Classifier

CLASSES = ("cat", "dog", "frog")
# One of each family that Loupe supports, at a small size: networks made for tests first, the others are slow.
QUICK = {"test_resnet": 32, "test_vit": 48, "test_efficientnet": 32}
FAMILIES = {
    **QUICK,
    **{"vgg11": 32, "vgg11_bn": 32, "resnet10t": 64, "mobilenetv1_100": 32, "mobilenetv2_050": 32},
    **{"mobilenetv3_small_050": 32, "tf_efficientnet_lite0": 32, "test_convnext": 32, "convnext_atto": 64},
    **{"vit_tiny_patch16_224": 64, "swin_tiny_patch4_window7_224": 64, "regnetx_002": 32, "densenet121": 32},
    **{"test_byobnet": 64, "eva02_tiny_patch14_224": 56},
}


def preprocessing(size_px: int, **changes) -> Preprocessing:
    values = {"load_px": size_px + 8, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    return Preprocessing(size_px=size_px, **values | changes)


def classifier(spec: BackboneSpec, size_px: int) -> Classifier:
    """A network of random weights, with statistics that make a difference."""
    model = build(spec, preprocessing(size_px), CLASSES, seed=0).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def differences(model: Classifier, folder: Path) -> dict[str, float]:
    """Largest difference of a logit in each engine, as a fraction of the largest, for one image and for two."""
    found = {}
    random = np.random.default_rng(0)
    for gate in timm_runner.gates(model, folder):
        assert gate.is_prepared and gate.tolerance == gate.logits.tolerance == 1e-5
        for images in (1, 2):
            pixels_NHWC = random.integers(0, 256, (images, *model.preprocessing.load_size, 3), np.uint8)
            probabilities_NK, _ = gate.runner.run(pixels_NHWC)
            assert probabilities_NK.shape == (images, 3)
            np.testing.assert_allclose(probabilities_NK.sum(axis=1), 1, rtol=1e-6)
        name, _ = gate.runner.name.split()
        found[name] = gate.logits.difference
    return found


@pytest.fixture
def without_transformers(monkeypatch):
    monkeypatch.setattr(timm_runner, "find_spec", lambda name: None)


@pytest.fixture
def narrow_vgg(monkeypatch):
    """VGG with a hidden layer of 64 units in place of 4,096, which take half a gigabyte."""
    monkeypatch.setattr(timm.models.vgg, "ConvMlp", partial(narrow, timm.models.vgg.ConvMlp))


def narrow(layer, *sizes, mlp_ratio, **options):
    return layer(*sizes, mlp_ratio=mlp_ratio / 64, **options)


def exported(name: str, size_px: int, folder: Path) -> Classifier:
    spec = BackboneSpec(backbone=name, weights="none")
    model = classifier(spec, size_px)
    timm_folder.write(model, spec, folder)
    return model


@pytest.mark.parametrize("name", QUICK)
def test_timm_loads_the_folder_and_gives_the_same_logits(name, tmp_path, without_transformers):
    found = differences(exported(name, QUICK[name], tmp_path), tmp_path)
    assert found.keys() == {"timm"} and found["timm"] <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_timm_and_transformers_give_the_same_logits_for_each_family(name, tmp_path, narrow_vgg):
    pytest.importorskip("transformers")
    model = exported(name, FAMILIES[name], tmp_path)
    found = differences(model, tmp_path)
    assert found.keys() == {"timm", "transformers"} and max(found.values()) <= 1e-5
    spec = BackboneSpec(backbone=name, weights=str(tmp_path))
    again = build(spec, model.preprocessing, CLASSES[::-1], seed=1).eval()
    with torch.inference_mode():
        x_BCHW = torch.randn(2, 3, *model.preprocessing.size)
        torch.testing.assert_close(again(x_BCHW), model(x_BCHW).flip(1), rtol=0, atol=0)


@pytest.mark.slow
def test_transformers_knows_the_classes_and_the_preprocessing(tmp_path):
    transformers = pytest.importorskip("transformers")
    exported("test_resnet", 32, tmp_path)
    network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert network.config.id2label == dict(enumerate(CLASSES))
    assert network.config.label2id == {name: number for number, name in enumerate(CLASSES)}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert tuple(processor.data_config["mean"]) == (0.5, 0.4, 0.3)
    assert tuple(processor.data_config["input_size"]) == (3, 32, 32)


def test_the_config_says_classes_and_preprocessing_in_the_terms_of_timm(tmp_path):
    model = exported("test_efficientnet", 32, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "test_efficientnet" and config["num_classes"] == 3
    assert config["label_names"] == list(CLASSES)
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "frog"}
    assert config["label2id"] == {"cat": 0, "dog": 1, "frog": 2}
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert network.num_classes == 3 and network.pretrained_cfg["label_names"] == list(CLASSES)
    read = resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    assert (read["input_size"], read["mean"], read["std"]) == ([3, 32, 32], [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    assert (read["interpolation"], read["crop_mode"]) == ("bilinear", "center")
    assert math.floor(32 / read["crop_pct"]) == model.preprocessing.load_px
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(timm.create_model("test_efficientnet", num_classes=3).state_dict())
        assert file.metadata() == {"format": "pt"}


@given(side_px=st.integers(1, 2000), load_px=st.integers(1, 4000))
def test_timm_computes_the_size_to_which_loupe_resizes(side_px, load_px):
    share = timm_folder._crop_share(side_px, load_px)
    assert math.floor(side_px / share) == load_px


@pytest.mark.parametrize(
    "network",
    [
        NETWORKS["digits-cnn"](),
        BackboneSpec(backbone="test_resnet", weights="none", hidden=(Dense(units=8),)),
        BackboneSpec(backbone="test_resnet", weights="none", pooling="flatten"),
        BackboneSpec(backbone="mobilenetv3_small_050", weights="none", pooling="average"),
        BackboneSpec(backbone="mobilenetv1_025", weights="none"),
    ],
    ids=lambda network: f"{network.name}-{network.pooling}-{len(network.hidden)}",
)
def test_a_network_that_timm_lacks_is_refused_and_nothing_is_written(network, tmp_path):
    model = build(network, preprocessing(32), CLASSES, seed=0)
    with pytest.raises(ConfigError, match="--to onnx"):
        timm_folder.write(model, network, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_average_pooling_is_that_of_timm_where_timm_pools_by_the_average(tmp_path, without_transformers):
    spec = BackboneSpec(backbone="test_resnet", weights="none", pooling="average")
    model = classifier(spec, 32)
    timm_folder.write(model, spec, tmp_path)
    assert differences(model, tmp_path)["timm"] <= 1e-5


def test_another_logit_is_seen(tmp_path, without_transformers):
    model = exported("test_resnet", 32, tmp_path)
    changed(tmp_path, 1e-3)
    assert differences(model, tmp_path)["timm"] > 1e-5


def changed(folder: Path, by: float) -> None:
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    safetensors.torch.save_file(state | {"fc.bias": state["fc.bias"] + by}, file, {"format": "pt"})


@pytest.fixture(scope="module")
def backbone(varied, tmp_path_factory) -> loupe.Run:
    settings = {"model.backbone": "test_resnet", "model.weights": "none", "input.size_px": 32, "input.load_px": 40}
    output = tmp_path_factory.mktemp("runs")
    options = {"precision": "fp32", "device": "cpu", "output": output, "quiet": True}
    with pytest.MonkeyPatch.context() as patched:
        without_slow_parts(patched)
        return loupe.train(varied, recipe="features", settings=settings | {"stages.0.epochs": 2}, **options)


def test_a_run_is_exported_with_its_card_and_the_usage_runs(
    backbone, varied, tmp_path, monkeypatch, capsys, without_transformers
):
    folder = export_model(backbone, "timm", folder=tmp_path / "timm")
    (engine,) = ParityReport.read(folder / "parity.json").engines
    assert engine.engine == f"timm {timm.__version__}" and engine.images == engine.same_top1 > 0
    assert engine.tolerance == 1e-5 and engine.largest_logit_difference <= 1e-5 and engine.pixel_values == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "card.md", "parity.json", "export.json"}
    card = (folder / "card.md").read_text()
    assert "library_name: timm" in card and str(backbone.path) not in card

    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    photo = next(varied.rglob("*.jpg"))
    shutil.copy(photo, folder / "photo.jpg")
    monkeypatch.chdir(folder)
    exec(compile(program, "card.md", "exec"), {})
    assert capsys.readouterr().out.split()[0] == backbone.predict(photo)[0].split()[0]


def test_an_export_is_refused_whose_logits_are_others(backbone, tmp_path, monkeypatch, without_transformers):
    write = timm_folder.write

    def write_others(model, network, folder, licence):
        write(model, network, folder, licence)
        changed(folder, 1e-3)  # of all logits, so that the probabilities are the same

    monkeypatch.setattr(timm_folder, "write", write_others)
    with pytest.raises(ExportRefusedError, match="logits"):
        export_model(backbone, "timm", folder=tmp_path / "timm")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_real_weights_give_the_same_logits_in_timm_and_transformers(name, real_data, tmp_path):
    pytest.importorskip("transformers")
    weights = real_data / "weights" / f"{name}.in1k.safetensors"
    if not weights.is_file():
        pytest.skip(f"{weights} is absent")
    spec = BackboneSpec(backbone=f"{name}.in1k", weights=str(weights))
    model = build(spec, preprocessing(224), CLASSES, seed=0).eval()
    timm_folder.write(model, spec, tmp_path)
    assert max(differences(model, tmp_path).values()) <= 1e-5
    config = json.loads((tmp_path / "config.json").read_text())
    assert "license" not in config["pretrained_cfg"], "a file does not say its licence"
    assert config["loupe"]["network"]["weights"] == weights.name, "without its place on this machine"
