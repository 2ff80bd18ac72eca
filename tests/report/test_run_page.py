"""The page of a run: whole, self-contained, readable by machine and person, and deaf to what names say."""

import io
import json
import pickle
import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from builders import make_run
from loupe.cli.report import report
from loupe.config import overrides
from loupe.errors import LoupeError
from loupe.evaluate import metrics
from loupe.evaluate.predictions import Predictions
from loupe.recipes import catalog
from loupe.report import content, figures, texts
from loupe.report.gallery import Exhibit
from loupe.report.gallery import write as write_gallery
from loupe.report.run_page import in_notebook, write_page

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "</title></style><h1>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{$",
    "a" * 300,
    "two\nlines\x07",
    "javascript:alert(1)",
)


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


DRAWN: dict[bytes, str] = {}


@pytest.fixture(autouse=True, scope="module")
def _drawn_once():
    """Figures of the same values are drawn once: most runs of these tests have the same figures."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("bars", "learning_curve"):
            patched.setattr(figures, name, drawn_once(name, getattr(figures, name)))
        yield


def drawn_once(name: str, draw: Callable[..., str]) -> Callable[..., str]:
    def drawn(*given: Any, **named: Any) -> str:
        key = pickle.dumps((name, given, named))
        if key not in DRAWN:
            DRAWN[key] = draw(*given, **named)
        return DRAWN[key]

    return drawn


def show(folder: Path) -> Page:
    return Page(write_page(folder))


def test_the_page_says_what_the_files_hold(tmp_path):
    run = make_run(tmp_path / "first-run", stopped="early stopping", damaged=2)
    page, accuracy = show(run), json.loads((run / "results.json").read_text())["test"]["accuracy"]
    words = page.words.replace("\xa0", " ")
    for said in (
        "first-run",
        "small on pets, 3 classes",
        f"{100 * accuracy['value']:.1f} % test accuracy",
        f"95 % interval {100 * accuracy['low']:.1f} % to {100 * accuracy['high']:.1f} %, from 60 test images",
        "most common class gives 33.3 %",
        "Test-set evaluations recorded in this folder: 2.",
        "early stopping",
        "2 damaged images were left out",
        "weights kept: epoch 3",
        "next stage begins",
        "101,898",
        "101,002",
        "4 min 10 s",
        "1,282 training images per second",
        "loupe train 'my pets' --epochs 4",
        "description: a <b>bold</b> one",
        "cat/miss-29.png",
        "cat taken for frog frog 99 %",
        "All 30 pictures, by true and predicted class",
        "3.11.9",
        "loupe train DATA --recipe",
    ):
        assert said in words, said
    counts = [int(text.replace(",", "")) for text in re.findall(r'title="[^"]*: ([\d,]+) of 20"', page.source)]
    assert sum(counts) == 60


def test_the_page_stands_alone_and_can_be_read_by_machine(tmp_path):
    page = show(make_run(tmp_path / "run"))
    assert not page.all("link") and not page.all("iframe")
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    scripts = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    hashes = [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts]
    assert len(page.all("script")) == 3
    assert f"script-src {' '.join(hashes)};" in policy
    for name, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:image/")), (name, attributes)
    assert not re.search(r"url\((?!#)|@import|https?://", page.source)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for attributes in page.all("a")}
    labelled = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert targets | labelled <= set(ids)
    assert all(image["alt"] for image in page.all("img")) and len(page.all("img")) == 3 + 1 + 4 + 24 + 30
    assert all(header.get("scope") in {"col", "row"} for header in page.all("th"))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.all("svg"))
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("title")) == 1
    assert page.all("html")[0]["lang"] == "en"


def test_names_are_text_whatever_they_say(tmp_path):
    plain = show(make_run(tmp_path / "run", tuple(f"class {i}" for i in range(len(HOSTILE)))))
    hostile = show(make_run(tmp_path / "hostile", HOSTILE, dataset=HOSTILE[2], recipe=HOSTILE[0], device=HOSTILE[1]))
    kinds = [[(tag, sorted(attributes)) for tag, attributes in page.elements] for page in (plain, hostile)]
    assert kinds[0] == kinds[1]
    assert all(name in hostile.text for name in HOSTILE)
    assert "49" not in {word for word in hostile.text.split() if "7" in word}
    assert all(image["src"].startswith("data:image/") for image in hostile.all("img"))


def test_a_notebook_shows_result_and_curves_in_a_frame_that_runs_nothing(tmp_path):
    folder = make_run(tmp_path / "run", HOSTILE[:3])
    frame = Page(of_text(tmp_path, in_notebook(folder)))
    [(tag, attributes)] = frame.elements
    assert tag == "iframe" and attributes["sandbox"] is None and not frame.text.strip()  # an empty list of permissions
    inside, whole = Page(of_text(tmp_path, attributes["srcdoc"])), show(folder)
    assert "script" not in {tag for tag, _ in inside.elements}
    assert inside.all("svg") == whole.all("svg")[1 : 1 + len(inside.all("svg"))]
    figures_of = re.findall(r"\d+\.\d %", whole.words)
    assert figures_of[0] in inside.words and "Learning curves" in inside.words


def of_text(folder: Path, text: str) -> Path:
    (folder / "text.html").write_text(text, encoding="utf-8")
    return folder / "text.html"


def test_a_gallery_may_hold_nothing_but_pictures(tmp_path):
    run = make_run(tmp_path / "run")
    row = {"role": "sample", "path": "p", "label": None, "predicted": None, "probability": None, "split": None}
    svg = {"bytes": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "path": None}
    pq.write_table(pa.Table.from_pylist([{**row, "image": svg}]), run / "gallery.parquet")
    with pytest.raises(LoupeError, match=r"gallery\.parquet.*neither PNG, JPEG nor WebP"):
        write_page(run)


def test_what_is_missing_is_left_out_with_a_sentence(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "gallery.parquet").unlink()
    assert "has no pictures" in show(run).words
    (run / "metrics.csv").unlink()
    page = show(run)
    assert "there are no curves" in page.words and not [a for a in page.all("a") if a["href"] == "#curves"]
    (run / "environment.json").unlink()
    assert "its environment is unknown" in show(run).words
    (run / "results.json").unlink()
    page = show(run)
    assert "This run has no result yet" in page.words and "Confusion" not in page.words
    (run / "recipe.yaml").unlink()
    with pytest.raises(LoupeError, match="not a run"):
        write_page(run)


def test_an_interrupted_run_shows_its_curves(tmp_path):
    run = make_run(tmp_path / "run")
    for name in ("results.json", "gallery.parquet"):
        (run / name).unlink()
    page = show(run)
    assert "Completed: 4 epochs." in page.words
    assert "Training: from 1.500 at epoch 1 to 0.700 at epoch 3." in page.source


def test_without_a_test_the_validation_stands_in_by_its_name(tmp_path):
    page = show(
        make_run(tmp_path / "run", test=None, test_looks=0, split_hash=None, images={"train": 9, "val": 60, "test": 0})
    )
    assert "validation accuracy" in page.words and "test accuracy" not in page.words
    assert "There are no test images" in page.words
    locked = show(make_run(tmp_path / "locked", test=None, test_looks=0)).words
    assert "validation accuracy" in locked and "The test set was not evaluated" in locked


def test_without_any_evaluation_there_is_no_result(tmp_path):
    page = show(make_run(tmp_path / "run", test=None, validation=None))
    assert "no result" in page.words and "held out" not in page.words


def test_where_nothing_was_held_out_the_figures_are_those_of_training(tmp_path):
    images = {"train": 1234, "val": 0, "test": 0}
    run = make_run(tmp_path / "run", test=None, validation=None, images=images, split_hash=None)
    for page in (show(run), SimpleNamespace(words=in_notebook(run))):
        assert "No images were held out for validation or test" in page.words
        words = page.words.replace("\xa0", " ")
        assert "1,234 images" in words and "70.0 %" in words and "0.700" in words  # of epoch 3, which was kept


SOLVED_METRICS = """epoch,stage,lr,l2_strength,train_loss,train_accuracy,val_loss,val_accuracy,seconds
1,1,,1000,0.9,0.6,0.8,0.61,0.01
2,1,,100,0.5,0.8,0.4,0.71,0.01
3,1,,10,0.1,0.9,0.6,0.81,0.01
"""
HEAD = {"part": "head", "strengths": 3, "l2_strength": 100.0, "seconds": 0.03}
BLOCK = {"part": "last-block", "epochs": 2, "seconds": 4.0}


def solved_run(folder: Path, *, metrics: str = SOLVED_METRICS, **changes) -> Path:
    """A run whose head was solved for three L2 strengths."""
    values = {"epochs": 3, "best_epoch": 2, "stages": [HEAD], "images_per_second": None, **changes}
    seconds = {"load": 1.0, "train": 0.03, "epoch_mean": None, "evaluate": 0.1, "total": 1.2}
    run = make_run(folder, **{"seconds": seconds, **values})
    (run / "metrics.csv").write_text(metrics)
    (run / "environment.json").unlink()  # whose command has --epochs
    return run


def chart_ticks(page: Page, unit: str) -> list[list[str]]:
    """Texts of each figure over `unit`."""
    figures_ = re.findall(rf'<svg[^>]*aria-label="\w+ by {unit}\..*?</svg>', page.source, re.DOTALL)
    return [re.findall(r"<text[^>]*>([^<]+)</text>", figure) for figure in figures_]


def test_a_solved_head_has_strengths_and_no_epochs(tmp_path):
    page = show(solved_run(tmp_path / "run"))
    words = page.words
    for said in (
        "L2 strengths3 kept: 100",
        "nor to select the L2 strength",
        "selected: L2 strength 100",
        "Figures by L2 strength",
        "The head was solved for 3 L2 strengths in 30 ms, 100 selected",
    ):
        assert said in words, said
    assert "Training: from 0.900 at L2 strength 1,000 to 0.100 at L2 strength 10, 0.500 at the selected" in page.source
    assert "has no epochs" in words and len(re.findall("(?i)epoch", words)) == 1
    assert "Training speed" not in words
    ticks = chart_ticks(page, "L2 strength")
    assert len(ticks) == 4 and all({"10", "100", "1,000", "L2 strength"} <= set(texts_) for texts_ in ticks)
    assert not chart_ticks(page, "epoch")


def test_strengths_are_drawn_on_a_logarithmic_scale():
    axis = figures.Axis("L2 strength", [1000.0, 100.0, 10.0], kept=100.0, logarithmic=True)
    svg = figures.learning_curve(axis, [figures.Curve("a", [3.0, 2.0, 1.0], figures.FIRST)], label="a", width_px=540)
    [line] = re.findall(r'd="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: var\(--first\)', svg)
    x = [float(found) for found in re.findall(r"[ML] ([\d.]+) ", line)]
    assert x[0] - x[1] == pytest.approx(x[1] - x[2], abs=0.01) and x[0] > x[2]


@pytest.mark.parametrize("values", [[31.6], [0.02, 0.03], [1e-30, 1e30], [5.0] * 3])
def test_any_range_of_strengths_can_be_drawn(values):
    axis = figures.Axis("L2 strength", values, kept=values[0], logarithmic=True)
    curve = figures.Curve("a", [0.5] * len(values), figures.FIRST)
    for width_px in (330, 540):
        svg = figures.learning_curve(axis, [curve], label="a", width_px=width_px)
        assert 1 <= svg.count("<text") <= 20


def test_each_stage_says_what_it_is(tmp_path):
    metrics = SOLVED_METRICS + "4,2,0.1,,0.7,0.7,0.5,0.7,2\n5,2,0.1,,0.6,0.8,0.3,0.9,2\n"
    mixed = {"metrics": metrics, "epochs": 5, "images_per_second": 50.0, "stages": [HEAD, BLOCK]}
    page = show(solved_run(tmp_path / "run", best_epoch=5, **mixed))
    for said in (
        "L2 strengths3 selected: 100",
        "Epochs2 kept: 2",
        "Head: solved for each L2 strength",
        "Last-block: trained in steps",
        "selected: L2 strength 100",
        "weights kept: epoch 2",
        "An epoch took 2.0 s on average",
        "nor to select the L2 strength or the epoch",
    ):
        assert said in page.words, said
    assert "Validation: from 0.500 at epoch 1 to 0.300 at epoch 2, 0.300 at the kept epoch, 2." in page.source
    assert "next stage begins" not in page.words
    other = show(solved_run(tmp_path / "other", best_epoch=2, **mixed))
    assert "L2 strengths3 kept: 100" in other.words and "weights kept" not in other.words


def test_stages_before_and_after_a_solved_head_share_the_numbers_of_epochs(tmp_path):
    metrics = """epoch,stage,l2_strength,train_loss,val_loss,val_accuracy
1,1,,0.9,0.8,0.6
2,1,,0.7,0.6,0.7
3,2,10,0.4,0.5,0.8
4,2,1,0.3,0.6,0.8
5,3,,0.2,0.4,0.9
"""
    whole = {"part": "all", "epochs": 2, "seconds": 1.0}
    stages = [whole, {**HEAD, "strengths": 2, "l2_strength": 10.0}, {**BLOCK, "epochs": 1}]
    words = show(solved_run(tmp_path / "run", metrics=metrics, epochs=5, best_epoch=5, stages=stages)).words
    assert re.findall(r"(?:All blocks|Head|Last-block): \w+", words) == [
        *("All blocks: trained", "Head: solved", "Last-block: trained")
    ]
    assert "weights kept: epoch 3" in words and "Epochs3 kept: 3" in words


def test_an_unfinished_solved_head_shows_its_strengths(tmp_path):
    run = solved_run(tmp_path / "run")
    (run / "recipe.yaml").write_text(catalog.recipe("features").to_yaml())
    for name in ("results.json", "gallery.parquet"):
        (run / name).unlink()
    assert "Completed: 3 L2 strengths." in show(run).words


def test_a_solved_head_of_an_earlier_version_has_strengths_too(tmp_path):
    lines = [",".join(cell for i, cell in enumerate(line.split(",")) if i != 3) for line in SOLVED_METRICS.splitlines()]
    run = solved_run(tmp_path / "run", metrics="\n".join(lines) + "\n", stages=[])
    (run / "recipe.yaml").write_text(overrides.override(catalog.recipe("features"), ["stages.0.epochs=11"]).to_yaml())
    words = show(run).words
    assert "L2 strengths3 kept: 3,160" in words and "selected: L2 strength 3,160" in words
    assert "Epochs" not in words


@pytest.mark.parametrize("strength", ["0", "-1", "nan", "inf", "1e308", "1e-308", "5e-324"])
def test_odd_strengths_are_drawn_or_left_out(tmp_path, strength):
    run = solved_run(tmp_path / "run", metrics=SOLVED_METRICS.replace(",1000,", f",{strength},"))
    assert "Figures by L2 strength" in show(run).words


def test_what_is_undefined_is_shown_with_its_reason(tmp_path):
    names = ("0", "1", "2")
    part = Predictions(names, names, np.array([0, 1, 1]), np.eye(3, dtype=np.float32), ("cat", "dog", "frog"))
    page = show(make_run(tmp_path / "run", test=metrics.evaluate(part)))
    assert "there are no images of the class frog" in page.words
    assert "it has no images here" in page.words


def test_a_hundred_classes_are_colours_and_more_are_left_out(tmp_path):
    page = show(make_run(tmp_path / "run", tuple(f"kind {i}" for i in range(100))))
    assert 'class="matrix compact"' in page.source and len(page.source) < 2e6
    page = show(make_run(tmp_path / "more", tuple(f"kind {i}" for i in range(101))))
    assert "of 101 classes is too large" in page.words and 'class="matrix' not in page.source


def test_a_cell_leads_to_its_pictures_and_says_how_many_it_has_not(tmp_path):
    run = make_run(tmp_path / "run")
    block = json.loads((run / "results.json").read_text())["test"]
    block["confusion_matrix"][0][2] = 77
    page = show(make_run(tmp_path / "more", test=block))
    links = [link for link in page.all("a") if link["href"] == "#cell-0-2"]
    assert len(links) == 2 and links[0]["aria-label"].startswith("cat → frog: 77 of ")
    assert "cat taken for frog 30 of 77 images" in page.words
    missed = sum(map(sum, block["confusion_matrix"])) - sum(block["confusion_matrix"][i][i] for i in range(3))
    assert f"Shown: 30 of {missed} misclassified images; predictions.csv lists all." in page.words
    pictures = re.search(r'<ul [^>]*id="cell-0-2".*?</ul>', page.source, re.DOTALL)[0]
    assert pictures.count("<img ") == 30 and "cat/miss-29.png" in pictures


def test_missed_images_are_ranked_by_loss_and_show_the_probabilities(tmp_path):
    run = make_run(tmp_path / "run")
    exhibits = [
        Exhibit(
            np.full((8, 8, 3), 9 * number, np.uint8),
            "missed",
            f"cat/{number}.png",
            split="test",
            label="cat",
            predicted="dog",
            probability=0.5,
            loss=loss,
            top=[("dog", 0.5), ("frog", 0.25), ("cat", 0.125)],
        )
        for number, loss in enumerate((0.7, 4.0, 2.5))
    ]
    write_gallery(run / "gallery.parquet", exhibits)
    page = show(run)
    assert [item["data-loss"] for item in page.all("li") if "data-loss" in item] == 2 * ["4.0", "2.5", "0.7"]
    assert "dog 50 % frog 25 % cat 12 % cat/1.png loss 4.000" in page.words.replace("\xa0", " ")
    assert "Highest loss first" in page.words and "calibrated probability" not in page.words
    write_gallery(run / "gallery.parquet", exhibits, temperature=1.25)
    assert "−log of the calibrated probability" in show(run).words


def test_a_gallery_holds_no_more_than_a_page_has_room_for_and_keeps_small_images_exact(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    taken = []

    def exhibits():
        for number, image in enumerate(pixels):
            taken.append(number)
            yield Exhibit(image, "sample", f"{number}.png")

    monkeypatch.setattr("loupe.report.gallery.PAGE_BYTES", 100_000)
    write_gallery(tmp_path / "gallery.parquet", exhibits())
    kept = pq.read_table(tmp_path / "gallery.parquet")["image"].to_pylist()
    assert 15 < len(kept) < 25 and len(taken) == len(kept) + 1
    assert sum(4 * len(image["bytes"]) / 3 for image in kept) < 100_000
    for image, original in zip(kept, pixels, strict=False):
        assert (np.asarray(Image.open(io.BytesIO(image["bytes"]))) == original).all()


def test_the_receipt_has_what_the_files_have(tmp_path):
    run = make_run(tmp_path / "my runs")
    environment = {
        "torch": "2.9.0",
        "processor": "A <fine> one",
        "hashes": {"data": "d" * 64, "split": "e" * 64, "weights": None, "code": "c" * 64},
        "command": ["loupe", "train", "pets"],
        "data": "my pets",
        "skip_damaged": True,
        "cuda": "13.0",
    }
    (run / "environment.json").write_text(json.dumps(environment))
    words = show(run).words
    for said in (
        f"loupe train 'my pets' --recipe '{run}/recipe.yaml' --against '{run}' --skip-damaged",
        f"hash of the images {'d' * 64} hash of the split {'e' * 64} hash of the test split {'ab' * 32}",
        "test-set evaluations 2",
        f"hash of Loupe's code {'c' * 64} PyTorch 2.9.0",
        "images 1,234 train, 60 val, 60 test",
        "seed 3 device cpu precision bf16 processor A <fine> one",
        "Other cuda 13.0",
    ):
        assert said in words, said
    assert "pretrained" not in words and "skip_damaged" not in words


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({}, "some may be among those evaluated here"),
        ({"seen_validation": 0, "seen_test": 0}, "weights of <first>. "),
        ({"seen_test": 12}, "trained on 12 of 60 test images: figures are too high"),
        ({"seen_validation": 0, "seen_test": 12}, "trained on 12 of 60 test images: figures are too high"),
    ],
)
def test_a_run_that_started_from_another_says_which_images_that_one_had_seen(tmp_path, seen, says):
    parent = {"name": "<first>", "path": "/runs/<first>", "weights": "b" * 64, "network": "resnet18", "head": "new"}
    run = make_run(tmp_path / "second", parent={**parent, "licence": "apache-2.0", **seen})
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"parent": {**parent, "licence": "apache-2.0"}}))
    words = show(run).words
    assert says in words
    assert ("were not used for training" in words) == (seen.get("seen_test") == 0)
    assert f"started from the weights of /runs/<first> hash of these weights {'b' * 64}" in words
    assert "licence of the published weights apache-2.0" in words and "parent." not in words


def test_report_draws_pages_again_and_refuses_what_is_no_run(tmp_path, capsys, monkeypatch):
    runs = [make_run(tmp_path / name) for name in ("first", "second")]
    for run in runs:
        for name in ("results.json", "metrics.csv"):  # figures take time, and others test them
            (run / name).unlink()
    report([str(runs[0]), "second"], output=tmp_path)
    assert capsys.readouterr().out.split() == [str(run / "report.html") for run in runs]
    report(["first"], output=tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {
            "run": str(runs[0]),
            "report": str(runs[0] / "report.html"),
            "bytes": (runs[0] / "report.html").stat().st_size,
        }
    ]
    (runs[0] / "report.html").unlink()
    with pytest.raises(LoupeError, match=r"(?s)third.*second"):
        report(["first", "third"], output=tmp_path)
    assert not (runs[0] / "report.html").exists()
    monkeypatch.setattr(
        "loupe.report.run_page.write_atomic", Mock(side_effect=PermissionError(13, "Permission denied"))
    )
    with pytest.raises(LoupeError, match=r"report\.html cannot be written: Permission denied"):
        report(["first"], output=tmp_path)


def test_the_same_files_give_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "run")
    DRAWN.clear()
    first = write_page(run).read_bytes()
    DRAWN.clear()
    assert write_page(run).read_bytes() == first


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.json", "{", "not JSON"),
        ("results.json", '{"schema": 2}', "schema 2"),
        ("results.json", '{"schema": 1, "classes": []}', "incomplete or damaged"),
        ("metrics.csv", "epoch,stage,train_loss\n1,0,low\n", "history of a run"),
        ("gallery.parquet", "PAR", "gallery of a run"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, message):
    run = make_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(LoupeError, match=message) as error:
        write_page(run)
    assert str(run / name) in str(error.value)


def test_figures_take_their_colours_from_the_page():
    curves = [figures.Curve("a", [1.0, None, 0.5], figures.FIRST), figures.Curve("b", [2.0, 1.5, 1.0], figures.SECOND)]
    axis = figures.Axis("epoch", [1, 2, 3], kept=3, stage_starts=[2])
    options = {"label": 'said "so" & <such>', "width_px": 330}
    svg = figures.learning_curve(axis, curves, **options)
    assert svg == figures.learning_curve(axis, curves, **options)
    assert "var(--first)" in svg and "var(--second)" in svg and "#0a0b0" not in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg) and "<style" not in svg and "<?xml" not in svg
    assert 'aria-label="said &quot;so&quot; &amp; &lt;such>"' in svg
    wide = figures.learning_curve(axis, curves, **{**options, "width_px": 540})
    assert not set(re.findall(r'id="([^"]+)"', svg)) & set(re.findall(r'id="([^"]+)"', wide))


def test_bars_are_as_long_as_their_values():
    svg = figures.bars({"$one$": 1.0, "four": 4.0, "none": 0.0}, ["1", "4", "0"], label="bars", width_px=330)
    corners = [
        [float(x) for x in re.findall(r"[ML] ([\d.]+)", path)] for path in re.findall(r'd="([^"]*)" clip-path', svg)
    ]
    lengths = [max(xs) - min(xs) for xs in corners]
    assert lengths == pytest.approx([lengths[1] / 4, lengths[1], 0], abs=1e-4)
    assert ">$one$</text>" in svg


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (texts.percent(0.1234), "12.3"),
        (texts.percent(0.9999), "99.99"),
        (texts.percent(1.0), "100.0"),
        (texts.percent(0.00004), "0.004"),
    ],
)
def test_percentages_never_round_to_all_or_nothing(text, expected):
    assert text == f"{expected}\xa0%"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "–"),
        (0.034, "34 ms"),
        (3.21, "3.2 s"),
        (59.96, "1 min 0 s"),
        (250, "4 min 10 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds, expected):
    assert texts.duration(seconds) == expected


def test_of_equally_frequent_errors_the_seed_decides_which_are_listed():
    classes = [f"class {k:02}" for k in range(40)]
    matrix = np.eye(40, dtype=int) * 5 + np.roll(np.eye(40, dtype=int), 1, axis=1)
    matrix[30, 2] = 3
    block = SimpleNamespace(confusion_matrix=matrix.tolist())
    listed = [content.confusions(block, classes, {}, seed=seed) for seed in range(30)]
    for rows in listed:
        assert len(rows) == 10 and (rows[0].truth, rows[0].guess) == ("class 30", "class 02")
        assert [row.truth for row in rows[1:]] == sorted(row.truth for row in rows[1:])
    assert {row.truth for rows in listed for row in rows} == {*classes}
