"""Input that is not square, as a user has it: from the decoder to the bundle, its explanation and its pages."""

import io
import json
import sys
from hashlib import sha256

import numpy as np
import PIL
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import loupe
from builders import save_photos
from child_processes import killed_in_step
from loupe.cli import main
from loupe.config import overrides
from loupe.config.recipe import Preprocessing
from loupe.config.size import Size
from loupe.data.dataset import open_dataset
from loupe.data.pixels.decode import DECODER_VERSION
from loupe.data.pixels.decoding import EncodedImages
from loupe.data.pixels.read_ahead import batch_size
from loupe.explain.feature_maps import map_layers
from loupe.explain.filters import AscentSettings, default_layers, maximise
from loupe.labels.find import LabelOptions, check_labels
from loupe.models.pretrained import native_preprocessing
from loupe.recipes.catalog import recipe
from loupe.report.labels_page import write_page
from loupe.runs.finalize import input_settings
from loupe.runs.predictor import Predictor

pytestmark = pytest.mark.usefixtures("bare")
SETTINGS = {
    "input.size_px": [24, 40],
    "input.load_px": [28, 46],
    "stages.0.epochs": 3,
    "stages.0.batch_size": 8,
    "stages.0.augment.random_resized_crop": [0.5, 1.0],
    "stages.0.augment.rotation_degrees": 10,
    "stages.0.augment.cutmix_alpha": 1,
    "stages.0.augment.mixup_alpha": 0.2,
    "stages.0.augment.cutout_px": 3,
}
FROZEN = {
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "input.size_px": [32, 48],
    "stages.0.epochs": 2,
    "stages.1.epochs": 1,
    "stages.1.batch_size": 8,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("rectangles") / "photos", ("cat", "dog"), each=20)


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    return loupe.train(
        photos,
        recipe="small-images",
        settings=SETTINGS,
        output=tmp_path_factory.mktemp("runs"),
        name="wide",
        device="cpu",
        precision="fp32",
        quiet=True,
    )


def test_a_run_keeps_its_size_in_recipe_bundle_and_pictures(run):
    assert run.recipe.input.size_px == (24, 40) and run.recipe.input.load_px == (28, 46)
    stored = json.loads((run.path / "model" / "config.json").read_text())["preprocessing"]
    assert (stored["size_px"], stored["load_px"]) == ([24, 40], [28, 46])
    assert run.model.head.logits.in_features == 128 * 3 * 5
    rows = pq.read_table(run.path / "gallery.parquet").to_pylist()
    assert {Image.open(io.BytesIO(row["image"]["bytes"])).size for row in rows} == {(40, 24)}
    assert {"original", "augmented"} <= {row["role"] for row in rows}


def test_predictions_are_those_of_the_pixels_by_hand_from_the_run_and_from_the_bundle(run, photos):
    paths = [photos / name / f"{number}.jpg" for name in ("cat", "dog") for number in (1, 2, 3)]
    boxed = [
        Image.open(path).resize((46, 28), Image.Resampling.BILINEAR, box=(0, 10, 96, 10 + 96 * 28 / 46))
        for path in paths
    ]
    pixels_BHWC = np.stack([np.asarray(image)[2:26, 3:43] for image in boxed]) / 255.0
    normal_BHWC = (pixels_BHWC - run.recipe.input.mean) / run.recipe.input.std
    x_BCHW = torch.from_numpy(normal_BHWC.transpose(0, 3, 1, 2)).float().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = torch.softmax(run.model(x_BCHW) / run.temperature, dim=1).numpy()
    np.testing.assert_allclose(run.predict_proba(paths), expected, atol=1e-5)
    bundled = Predictor(run.path / "model", device="cpu")
    np.testing.assert_array_equal(bundled.predict_proba(paths), run.predict_proba(paths))
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_allclose(run.predict_proba(arrays), expected, atol=1e-5)
    assert bundled.images_per_second() > 0


def test_a_killed_run_is_resumed_to_the_same_weights(run, photos, tmp_path):
    with killed_in_step(6):
        loupe.train(photos, recipe=run.path / "recipe.yaml", output=tmp_path, name="killed", device="cpu", quiet=True)
    resumed = loupe.resume(tmp_path / "killed", quiet=True)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_explanations_and_filters_have_the_size_of_the_input(run):
    pytest.importorskip("captum")
    layers = map_layers(run.model)
    assert layers["trunk.block1.conv1"].shape == (32, 24, 40)
    assert {layer.layout for layer in layers.values()} == {"map"}
    assert [*layers.values()][-1].shape == (128, 3, 5)
    [explanation] = run.explain(count=1)
    assert explanation.pixels.shape == (24, 40, 3)
    assert {found.shape for found in explanation.maps.values()} == {(24, 40)}
    [first, *_] = maximise(run.model, default_layers(run.model)[0], [0], AscentSettings(steps=2))
    assert first.pixels_RHWC.shape == (3, 24, 40, 3)


def test_frozen_blocks_of_a_backbone_at_a_rectangle(photos, tmp_path):
    trained = loupe.train(
        photos, recipe="last-block", settings=FROZEN, output=tmp_path, name="frozen", device="cpu", quiet=True
    )
    prepared, own = trained.model.preprocessing, native_preprocessing(trained.recipe.model)
    assert prepared.size == Size(32, 48)
    assert prepared.load_size == Size(*(round(side * own.load_px / own.size_px) for side in (32, 48)))
    assert {"input.size_px=[32,48]", f"input.load_px={[*prepared.load_size]}".replace(" ", "")} <= {
        *input_settings(trained.recipe.model, prepared)
    }


@pytest.mark.slow
def test_a_comparison_trains_and_reports_at_a_rectangle(photos, tmp_path):
    settings = ["stages.0.epochs=1", "split.validation=8", "input.size_px=[32,48]"]
    settings += ["stages.0.augment.random_resized_crop=[0.5,1.0]"]
    compared = loupe.compare(
        photos, recipes=["small-images", "photographs-plain"], settings=settings, output=tmp_path, quiet=True
    )
    assert compared is not None
    names = ("small-images", "photographs-plain")
    recipes = {one.name: one.input for one in map(overrides.load, tmp_path.glob("*/recipe.yaml"))}
    assert {name: one.size_px for name, one in recipes.items()} == dict.fromkeys(names, (32, 48))
    assert recipes["small-images"].load_px == (37, 55), "room for its random crops"


def test_labels_are_examined_at_a_rectangle(photos, tmp_path):
    pytest.importorskip("cleanlab")
    report = check_labels(
        photos, LabelOptions(model="test_resnet", weights="none", size_px=[32, 48], number_of_folds=3), quiet=True
    )
    assert report.size_px == (32, 48)
    written = report.results.to_json()
    assert written["size_px"] == [32, 48]
    write_page(tmp_path / "page.html", report.results, [])
    assert "32 x 48 px" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_command_line_shows_models_of_a_rectangle_and_refuses_what_is_no_size(capsys, monkeypatch):
    def called(*words):
        monkeypatch.setattr(sys, "argv", ["loupe", *words])
        try:
            main.main()
        except SystemExit as ended:
            return ended.code or 0
        return 0

    assert called("models", "deep-cnn", "--size", "24x40", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["size_px"] == [24, 40] and shown["layers"][-1]["parameters"] == 10 * (128 * 3 * 5 + 1)
    for wrong in ("0", "24x0", "24.5", "1x2x3", "big"):
        assert called("models", "deep-cnn", "--size", wrong) == 2
        assert "--size" in capsys.readouterr().err


def test_a_square_is_written_and_cached_as_before(photos):
    table = open_dataset(photos, announce=False).table
    images = EncodedImages(table, 8, "crop", "bilinear")
    before = [[DECODER_VERSION, PIL.__version__, 8, "crop", "bilinear", None, 3], ["a", "b"]]
    assert images.key(["a", "b"]) == sha256(json.dumps(before).encode()).hexdigest()[:40]
    assert EncodedImages(table, (8, 12), "crop", "bilinear").shape == (8, 12, 3)
    assert (
        Preprocessing(size_px=(8, 8), load_px=8).model_dump_json()
        == Preprocessing(size_px=8, load_px=8).model_dump_json()
    )
    assert "size_px: 8\n" in recipe("digits").to_yaml()
    assert batch_size(Size(64, 64)) == batch_size(Size(32, 128)) == 512


def test_a_network_that_the_size_is_too_small_for_says_which(photos, tmp_path):
    with pytest.raises(loupe.LoupeError, match=r"24 x 4 px are too small for block 3"):
        loupe.train(photos, recipe="small-images", settings={"input.size_px": [24, 4]}, output=tmp_path, quiet=True)
