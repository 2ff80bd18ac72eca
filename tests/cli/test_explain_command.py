"""`loupe explain` as a person uses it: on a run that is fabricated, not trained, so that it costs next to nothing."""

import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import loupe
from builders import run_results
from loupe.cli import main
from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.data.hashing import content_hashes
from loupe.data.sources.open import open_table
from loupe.evaluate.predictions import Predictions, write_splits
from loupe.models import bundle, cnn

SIDE = 16
HOSTILE = "dog &lt;b&gt; {{ 7 + 7 }}"
CLASSES = ("cat", HOSTILE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in CLASSES:
        for number in range(4):
            path = folder / "val" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory) -> Path:
    """What `loupe train` leaves of a run, as far as explaining it reads: no training, random weights."""
    path = tmp_path_factory.mktemp("runs") / "first"
    path.mkdir()
    spec = CnnSpec(name="tiny", blocks=(ConvBlock(filters=(4, 6)),), init="he")
    sizes = Preprocessing(size_px=SIDE, load_px=SIDE)
    bundle.save(path / "model", cnn.cnn(spec, sizes, CLASSES, seed=0), spec, "fp32")
    (path / "recipe.yaml").write_text("name: small\n")
    (path / "results.json").write_text(json.dumps(run_results("first", CLASSES, None)))
    (path / "environment.json").write_text(json.dumps({"data": str(photos)}))
    table = open_table(photos)
    said = loupe.load(path).predictions(table)
    labelled = Predictions(said.path, content_hashes(table), table.labels, said.logits_NK, CLASSES)
    write_splits(path / "predictions.csv", {"val": labelled, "test": labelled})
    return path


@pytest.fixture
def terminal(monkeypatch, capsys, tmp_path):
    """Runs one command in an empty folder; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def stands_alone(page: Page) -> None:
    assert not page.all("script") and not page.all("link")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(ids)
    assert len(page.all("h1")) == len(page.all("title")) == 1


def test_the_runs_own_images_missed_first_with_a_map_for_either_class(terminal, made, tmp_path):
    pytest.importorskip("captum.attr")
    code, out, _ = terminal("explain", made, "--json")
    assert code == 0
    answer = json.loads(out)
    said = Predictions.read(made / "predictions.csv", "val")
    wrong = said.predicted != said.label
    assert [image["label"] != image["predicted"] for image in answer["images"]] == sorted(wrong, reverse=True)
    by_path = {path: row for row, path in enumerate(said.path)}
    for image in answer["images"]:
        row = by_path[image["path"]]
        assert image["probability"] == pytest.approx(said.probabilities_NK[row].max(), abs=1e-4)
        assert list(image["evidence"]) == list(dict.fromkeys([image["predicted"], image["label"]]))
    page = Page(tmp_path / "explain.html")
    stands_alone(page)
    assert len(page.all("img")) == sum(1 + len(image["evidence"]) for image in answer["images"])
    assert HOSTILE in page.text
    assert any("evidence for cat: " in image["alt"] for image in page.all("img"))


def test_probabilities_are_calibrated_by_the_temperature_of_the_model(terminal, made, photos, tmp_path):
    pytest.importorskip("captum.attr")
    warm = tmp_path / "warm"
    shutil.copytree(made, warm)
    config = json.loads((warm / "model" / "config.json").read_text())
    (warm / "model" / "config.json").write_text(json.dumps(config | {"temperature": 0.25}))
    answer = json.loads(terminal("explain", warm, "--json")[1])
    said = Predictions.read(made / "predictions.csv", "val")
    by_path = {path: row for row, path in enumerate(said.path)}
    assert answer["temperature"] == 0.25
    for image in answer["images"]:
        odds = np.exp(4 * said.logits_NK[by_path[image["path"]]].astype(float))
        assert image["probability"] == pytest.approx(odds.max() / odds.sum(), abs=1e-4)
    assert "temperature 0.25" in Page(tmp_path / "explain.html").text


def test_images_that_are_given_and_one_class_on_one_layer(terminal, made, photos, tmp_path):
    pytest.importorskip("captum.attr")
    code, out, _ = terminal(
        *("explain", made, photos / "val" / "cat", "--class", "cat", "--layer", "trunk.block1.conv1"),
        *("--to", tmp_path / "mine.html", "--method", "grad-cam"),
    )
    assert code == 0
    assert len(out.splitlines()) == 5 and "mine.html" in out.splitlines()[-1]
    assert all("cat: " in line for line in out.splitlines()[:4])
    page = Page(tmp_path / "mine.html")
    stands_alone(page)
    assert "trunk.block1.conv1" in page.text and "16 × 16" in page.text
    assert len(page.all("img")) == 8


def test_looking_at_test_images_is_counted_and_at_others_not(terminal, made):
    pytest.importorskip("captum.attr")
    looks = made.parent / "test_looks.jsonl"
    assert terminal("explain", made, "--count", "2")[0] == 0
    assert not looks.exists()
    code, _, err = terminal("explain", made, "--split", "test", "--count", "2")
    assert code == 0 and "Test-set evaluations recorded in this folder: 1." in err
    assert len(looks.read_text().splitlines()) == 1
    looks.unlink()


def test_filters_page(terminal, made, tmp_path):
    code, out, _ = terminal("explain", made, "--filters", "--count", "2", "--json")
    assert code == 0
    answer = json.loads(out)
    assert list(answer["layers"]) == ["trunk.block1.conv1", "trunk.block1.conv2"]
    assert answer["settings"]["seed"] == 0
    for several in answer["layers"].values():
        assert [one["filter"] for one in several] == [0, 1]
        assert all(one["response"]["none"] > one["response"]["noise"] for one in several)
    page = Page(tmp_path / "filters.html")
    stands_alone(page)
    assert len(page.all("img")) == 2 * 2 * 3
    code, out, _ = terminal("explain", made, "--filters", "--count", "99", "--layer", "trunk.block1.conv1")
    assert code == 0 and "trunk.block1.conv1: 4 filters" in out


def test_a_run_explains_arrays(made):
    pytest.importorskip("captum.attr")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 30, 20, 3), dtype=np.uint8)
    run = loupe.load(made)
    found = run.explain(pixels)
    assert [one.predicted for one in found] == run.predict(pixels)
    assert all(one.label is None and not one.missed and one.pixels.shape == (SIDE, SIDE, 3) for one in found)
    assert all(list(one.maps) == [one.predicted] for one in found)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["RUN", "nothing-here.png"], "nothing-here.png"),
        (["RUN", "--layer", "trunk.block1.conv3"], "Did you mean trunk.block1.conv"),
        (["RUN", "--filters", "--layer", "head.logits"], "unknown layer"),
        (["RUN", "--class", "cut"], "Did you mean cat"),
        (["RUN", "--split", "train"], "--split train: give val or test"),
        (["RUN", "--filters", "x.png"], "--filters cannot be combined with images"),
        (["RUN", "--to", "no-such-folder/page.html"], "does not exist"),
        (["RUN", "--method", "guided"], "grad-cam"),
        (["no-such-run"], "no-such-run"),
        (["RUN", "damaged.png"], "damaged.png"),
    ],
)
def test_wrong_input_is_one_clear_error(terminal, made, tmp_path, arguments, says):
    pytest.importorskip("captum.attr")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    code, out, err = terminal("explain", *(made if argument == "RUN" else argument for argument in arguments))
    assert code not in (0, None)
    assert says in err and "Traceback" not in err and not out
    assert not list(tmp_path.glob("*.html"))


def test_images_that_have_changed_since_are_not_explained_as_the_runs_own(terminal, made, photos):
    path = photos / "val" / "cat" / "0.png"
    before = path.read_bytes()
    Image.new("RGB", (20, 24)).save(path)
    try:
        code, _, err = terminal("explain", made)
    finally:
        path.write_bytes(before)
    assert code == 1 and "changed since the run was made" in err


def test_without_captum_maps_say_what_to_install(terminal, made, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    code, _, err = terminal("explain", made)
    assert code == 1 and "pip install captum" in err
