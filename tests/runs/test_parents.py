"""Runs that start from the weights of another: what is taken, what is recorded, and what the images had seen before."""

import hashlib
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import loupe
from loupe.comparison.plan import resolve_candidates
from loupe.comparison.request import ComparisonRequest
from loupe.config import overrides
from loupe.config.recipe import PIXEL_DEFINITION
from loupe.data.dataset import open_dataset
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import ConfigError, RunStateError
from loupe.evaluate.results import RunResults
from loupe.export import timm_folder
from loupe.provenance import environment_of
from loupe.recipes import catalog
from loupe.recipes.resolve import resolve
from loupe.report.receipt import receipt
from loupe.rundir import RunDirectory
from loupe.runs import diff, parents

pytestmark = pytest.mark.usefixtures("bare")
NETWORK = {"model.blocks": [{"filters": [8], "norm": "each"}], "model.hidden": []}


def digits(images: int = 200, first: int = 0, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    rows = np.flatnonzero(bunch.target < classes)[first : first + images]
    return (bunch.images[rows] * 15.9375).astype(np.uint8), bunch.target[rows]


def train(output: Path, data=None, **options) -> loupe.Run:
    given = {"precision": "fp32", "device": "cpu", "quiet": True, "output": output} | options
    return loupe.train(digits() if data is None else data, **given)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> loupe.Run:
    return train(tmp_path_factory.mktemp("runs"), recipe="digits", epochs=2, settings=NETWORK, name="first", seed=3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> loupe.Run:
    """A run of a frozen network of random weights and a solved head, at other sizes than the network's own."""
    settings = {"input.size_px": 32, "input.load_px": 40, "input.mean": [0.1, 0.2, 0.3], "stages.0.epochs": 2}
    settings |= {"model.backbone": "test_resnet", "model.weights": "none"}
    return train(tmp_path_factory.mktemp("runs"), recipe="features", settings=settings, name="backbone")


def tensors(run: loupe.Run) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


def test_a_run_goes_on_from_the_weights_of_another_and_names_it(first):
    done = train(first.path.parent, weights="first", epochs=1, name="second")
    assert done.recipe.name == "digits" and done.recipe.model.weights == str(first.path / "model")
    assert done.recipe.seed == 3 and done.recipe.split == first.recipe.split, "the recipe of the run is kept"
    file = first.path / "model" / "weights.safetensors"
    record = done.results.parent
    assert (record.name, record.path, record.head) == ("first", str(first.path), "same")
    assert record.weights == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (record.seen_validation, record.seen_test) == (0, 0), "the images are split alike"
    environment = environment_of(done.directory)
    assert environment.parent == record and environment.hashes.weights == record.weights
    assert RunResults.read(done.path / "results.json") == done.results
    rows = {row.name: row.value for group in receipt(done.results, environment) for row in group.rows}
    assert rows["started from the weights of"] == str(first.path) and record.weights in rows.values()
    log = (done.path / "train.log").read_text()
    assert "trunk and head are taken" in log and "prepared as for" in log
    assert done.recipe.input.pixel_definition == PIXEL_DEFINITION
    again = train(first.path.parent, recipe=done.path / "recipe.yaml", name="again")
    assert diff.differences(done.directory, again.directory).same


def test_the_first_step_has_the_weights_and_not_those_of_a_seed(first, tmp_path):
    still = {"stages.0.lr": 1e-12, "stages.0.weight_decay": 0, "stages.0.schedule": "constant"}
    done = train(tmp_path, weights=str(first.path), epochs=1, settings=still)
    for name, value in tensors(first).items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensors(done)[name], value, rtol=0, atol=1e-6)


def test_new_classes_have_a_new_head_and_the_images_are_prepared_as_before(first, tmp_path):
    x, y = digits(classes=4)
    done = train(
        tmp_path, (x, y), recipe="features", weights=str(first.path / "model"), settings={"stages.0.epochs": 2}
    )
    assert done.results.parent.head == "new" and done.results.parent.path == str(first.path)
    assert done.preprocessing == first.preprocessing and done.classes == ("0", "1", "2", "3")
    for name, value in tensors(first).items():
        if name.startswith("trunk."):
            assert torch.equal(tensors(done)[name], value), "a frozen trunk"


@pytest.mark.parametrize("data", [None, digits(first=100)], ids=["the same images", "half of them"])
def test_images_that_the_parent_was_trained_on_are_counted(first, tmp_path, caplog, data):
    caplog.set_level("WARNING", "loupe")
    done = train(tmp_path, data, weights=str(first.path), epochs=1, seed=4)
    seen = done.results.parent.seen_test
    rows = [line.split(",") for line in (first.path / "split.csv").read_text().splitlines()]
    own = [line.split(",") for line in (done.path / "split.csv").read_text().splitlines()]
    trained = {row[-1] for row in rows if row[2] == "train"}
    assert seen == sum(row[-1] in trained for row in own if row[2] == "test") > 0
    (told,) = [record.message for record in caplog.records if "test images are training" in record.message]
    assert "--set split.seed=3" in told


def test_images_of_the_line_of_runs_are_counted(first, tmp_path):
    second = train(tmp_path, digits(100, first=300), weights=str(first.path), epochs=1)
    assert second.results.parent.seen_test == 0, "other images"
    third = train(tmp_path, weights=str(second.path), epochs=1, seed=4)
    assert third.results.parent.seen_test > 0, "images of the first run"


def test_images_are_unknown_where_the_line_of_runs_breaks(first, tmp_path):
    parent = shutil.copytree(first.path, tmp_path / "parent")
    second = train(tmp_path, digits(100, first=300), weights=str(parent), epochs=1)
    shutil.rmtree(parent)
    third = train(tmp_path, weights=str(second.path), epochs=1).results.parent
    assert (third.seen_validation, third.seen_test) == (None, None), "images of the first run may be among them"
    found = train(tmp_path, digits(100, first=300), weights=str(second.path), epochs=1, seed=4).results.parent
    assert found.seen_test > 0, "those that were found count"


@pytest.mark.slow
def test_images_are_unknown_where_the_line_began_outside_a_run(backbone, tmp_path):
    folder = tmp_path / "export"
    timm_folder.write(backbone.model, backbone.recipe.model, folder)
    settings = {"stages.0.epochs": 1}
    second = train(tmp_path, digits(100, first=300), weights=f"local-dir:{folder}", settings=settings)
    third = train(tmp_path, weights=str(second.path), settings=settings).results.parent
    assert (third.seen_validation, third.seen_test) == (None, None)


@pytest.mark.parametrize("then", ["circle", "damaged"])
def test_a_line_of_runs_that_cannot_be_followed_is_not_whole(first, tmp_path, then):
    second = train(tmp_path, weights=str(first.path), epochs=1)
    line, is_whole = parents._line(second.path)
    assert [run.path for run in line] == [second.path, first.path] and is_whole
    file = second.path / "environment.json"
    changed = file.read_text().replace(str(first.path), str(second.path)) if then == "circle" else "{"
    file.write_text(changed)
    assert parents._line(second.path) == ([second.directory], False)


def test_the_licence_passes_on_where_a_run_before_is_gone(backbone, tmp_path):
    settings = {"stages.0.epochs": 1}
    parent = shutil.copytree(backbone.path, tmp_path / "parent")
    second = train(tmp_path, weights=str(parent), settings=settings)
    shutil.rmtree(parent)
    file = second.path / "environment.json"
    file.write_text(file.read_text().replace('"licence": null', '"licence": "cc-by-nc-4.0"'))
    third = train(tmp_path, weights=str(second.path), settings=settings)
    assert third.results.parent.licence == "cc-by-nc-4.0"


def test_a_backbone_goes_on_with_its_own_network_and_preprocessing(backbone, tmp_path):
    done = train(tmp_path, digits(classes=4), weights=str(backbone.path), settings={"stages.0.epochs": 2})
    assert done.recipe.name == "features"
    assert done.recipe.model == backbone.recipe.model.model_copy(update={"weights": str(backbone.path / "model")})
    assert done.preprocessing == backbone.preprocessing
    assert done.results.parent.network == "test_resnet" and done.results.parent.licence is None


@pytest.mark.slow
def test_an_export_for_timm_goes_on_like_its_run(backbone, tmp_path):
    folder = tmp_path / "export"
    timm_folder.write(backbone.model, backbone.recipe.model, folder)
    settings = {"stages.0.epochs": 2}
    runs = [
        train(tmp_path, digits(classes=4), weights=weights, settings=settings)
        for weights in (str(backbone.path), f"local-dir:{folder}")
    ]
    one, other = (tensors(run) for run in runs)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    record = runs[1].results.parent
    assert (record.name, record.path, record.seen_test) == ("export", str(folder), None)


@pytest.mark.slow
def test_outputs_of_frozen_blocks_belong_to_the_content_of_the_weights(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    folder, found = tmp_path / "model", []
    for scale in (1.0, 2.0):
        shutil.rmtree(folder, ignore_errors=True)
        model = loupe.load(backbone.path, device="cpu").model
        with torch.no_grad():
            next(model.trunk.parameters()).mul_(scale)
        loupe.models.bundle.save(folder, model, backbone.recipe.model, "fp32")
        train(tmp_path, weights=str(folder), settings={"stages.0.epochs": 1})
        found.append({path.name for path in (tmp_path / "cache" / "frozen").iterdir()})
    assert found[0] < found[1], "one path, other weights: computed anew"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"recipe": "small-images"}, ConfigError),
        ({"model": "digits-cnn"}, ConfigError),
        ({"model": "resnet18"}, ConfigError),
        ({"recipe": "lecture-vgg16"}, ConfigError),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_another_network_is_refused_with_the_recipe_of_the_run(first, tmp_path, options, error):
    with pytest.raises(error, match=str(first.path / "recipe.yaml")):
        train(tmp_path / "runs", weights=str(first.path), **options)
    assert not (tmp_path / "runs").exists()


def test_another_backbone_is_refused_with_the_name_of_the_run_s(backbone, tmp_path):
    for options in ({"model": "test_vit"}, {"recipe": "digits"}):
        with pytest.raises(ConfigError, match="--model test_resnet"):
            train(tmp_path, weights=str(backbone.path), **options)


def test_channels_of_the_weights_are_those_of_the_recipe(first, tmp_path):
    grey = train(tmp_path, recipe="digits", epochs=1, settings=NETWORK | {"input.channels": 1}, name="grey")
    dataset = open_dataset(digits(), ReadOptions.of(None))
    flags = dict.fromkeys(("epochs", "batch_size", "lr", "seed", "precision"))
    recipe = resolve("features", dataset, model=None, weights=str(grey.path), flags=flags, extra={})
    assert recipe.preprocessing == grey.preprocessing and recipe.input.channels == 1
    with pytest.raises(ConfigError, match=r"input\.channels"):
        train(tmp_path, weights=str(first.path), settings={"input.channels": 1})


def test_a_model_folder_alone_asks_for_a_recipe(first, tmp_path):
    shutil.copytree(first.path / "model", tmp_path / "model")
    with pytest.raises(ConfigError, match="--recipe"):
        train(tmp_path, weights=str(tmp_path / "model"))


def test_more_epochs_of_a_finished_run_are_a_new_run(first, backbone, tmp_path):
    with pytest.raises(RunStateError) as refused:
        parents.refuse_if_finished("first", first.path.parent, 5)
    words = shlex.split(str(refused.value).partition("new run: ")[2])
    recipe = str(first.path / "recipe.yaml")
    assert words == ["loupe", "train", "DATA", "--recipe", recipe, "--weights", str(first.path), "--epochs", "5"]

    words = shlex.split(parents.continuation(backbone.directory, 5))
    assert words[3:] == ["--recipe", "finetune", "--weights", str(backbone.path), "--set", "stages.1.epochs=5"]
    assert overrides.override(catalog.recipe("finetune"), words[-1:]).stages[1].epochs == 5

    begun = RunDirectory(tmp_path / "begun")
    begun.path.mkdir()
    begun.write_recipe(first.recipe)
    parents.refuse_if_finished(begun.path, tmp_path, 5)


def test_the_split_of_a_run_can_be_asked_for_with_any_recipe(tmp_path):
    recipe = overrides.override(catalog.recipe("digits"), {"split.test": 0.5, "seed": 7})
    words = parents._of_split(recipe)
    assert overrides.override(catalog.recipe("features"), words[1::2]).split.model_dump() == {
        **recipe.split.model_dump(),
        "seed": 7,
    }
    assert parents._of_split(catalog.recipe("digits")) == []


def test_names_of_runs_are_found_where_nothing_else_has_the_name(first, tmp_path, monkeypatch):
    runs = first.path.parent
    assert parents.named("first", runs) == str(runs / "first")
    for given in (None, "timm", "none", "hf-hub:somebody/network", "unknown"):
        assert parents.named(given, runs) == given
    monkeypatch.chdir(tmp_path)
    Path("first").touch()
    assert parents.named("first", runs) == "first"


@pytest.mark.parametrize("kind", ["first", "backbone"])
def test_a_comparison_takes_the_network_of_a_run(kind, request):
    run = request.getfixturevalue(kind)
    asked = ComparisonRequest(recipes=("features", "finetune"), weights=str(run.path), settings=("model.hidden=[]",))
    entries = resolve_candidates(open_dataset(digits(), ReadOptions.of(None)), asked)
    assert [entry.name for entry in entries] == ["features", "finetune"]
    for entry in entries:
        assert entry.recipe.model == run.recipe.model.model_copy(update={"weights": str(run.path / "model")})
        assert entry.recipe.preprocessing == run.preprocessing


def test_a_finished_run_needs_its_parent_no_more(first, tmp_path):
    parent = shutil.copytree(first.path, tmp_path / "parent")
    done = train(tmp_path, weights=parent, epochs=1, name="child")
    answers = done.predict_proba(digits(6)[0])
    shutil.rmtree(parent)
    np.testing.assert_array_equal(loupe.load(done.path, device="cpu").predict_proba(digits(6)[0]), answers)
    with pytest.raises(ConfigError, match="no run"):
        train(tmp_path, recipe=done.path / "recipe.yaml", name="again")
