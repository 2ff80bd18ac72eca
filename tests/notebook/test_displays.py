"""What a notebook shows: it says what the data hold, stands alone, and is deaf to what names say."""

import io
import re
from base64 import b64decode
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import loupe
from builders import comparison_content, make_run, predictions, save_photos
from loupe.comparison.finished import FinishedComparison
from loupe.comparison.planned import PlannedComparison
from loupe.evaluate import metrics
from loupe.evaluate.predictions import write_splits
from loupe.evaluate.results import RunResults, results_of
from loupe.notebook import run_parts
from loupe.notebook.differences import differences
from loupe.notebook.display import Display
from loupe.notebook.predictions import labels_of
from loupe.recipes.published.experiments import EXPERIMENTS
from loupe.report.sampling import in_turn
from loupe.rundir import RunDirectory

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "</title></style><h1>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{$",
    "a" * 300,
)


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.replace("\xa0", " ").split())


def arrays(counts: tuple[int, ...], side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(len(counts))
    y = np.repeat(np.arange(len(counts)), counts)
    return random.integers(0, 256, (len(y), side, side, 3), dtype=np.uint8), y


def pixels(image: dict[str, str | None]) -> np.ndarray:
    data = b64decode((image["src"] or "").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def opened(run: Path) -> tuple[RunDirectory, RunResults]:
    directory = RunDirectory(run)
    results = results_of(directory)
    assert results is not None
    return directory, results


def check_stands_alone(shown: Display) -> Page:
    page = Page(shown.html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img"))
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    [(tag, frame)] = Page(shown._repr_html_()).elements
    assert tag == "iframe" and frame["sandbox"] is None and frame["srcdoc"] == shown.html
    return page


def test_data_are_shown_with_the_number_of_images_of_each_class_and_split():
    shown = loupe.show((arrays((30, 10)), arrays((4, 6))), count=7)
    page = check_stands_alone(shown)
    assert re.search(r"0 30 4 34 1 10 6 16$", page.words)
    assert "Images 50 Classes 2 Images of a class 16 to 34 Size 8 × 8 px" in page.words
    assert "7 images of 50, drawn in turn" in page.words
    assert [image["alt"] for image in page.all("img")] == ["0", "1", "0", "1", "0", "1", "0"]
    bars = [float(found) for found in re.findall(r"width:([\d.]+)%", shown.html)]
    assert bars == pytest.approx([100 * count / 34 for count in (30, 4, 10, 6)], abs=0.01)
    assert repr(shown).startswith("arrays: 50 images in 2 classes (0, 1); splits given: train 40, test 10.")
    test = Page(loupe.show((arrays((30, 10)), arrays((4, 6))), split="test").html)
    assert re.search(r"0 4 1 6$", test.words) and len(test.all("img")) == 10 and "test images" in test.words


def test_images_are_those_of_the_seed_and_are_shown_as_they_are():
    x, y = arrays((5, 5, 5))
    one, again, other = (loupe.show((x, y), count=6, seed=seed) for seed in (1, 1, 2))
    assert one.html == again.html != other.html
    assert all(any(np.array_equal(pixels(image), own) for own in x) for image in Page(one.html).all("img"))


def test_classes_take_turns_and_images_without_a_label_have_one_of_their_own():
    label = np.array([0] * 50 + [1] * 2 + [-1] * 3)
    assert sorted(label[in_turn(label, ("a", "b"), 0, 6)].tolist()) == [-1, -1, 0, 0, 1, 1]
    assert sorted(in_turn(label, ("a", "b"), 0, 99).tolist()) == [*range(55)]
    many = np.arange(1000)
    assert len(set(in_turn(many, [str(i) for i in many], 3, 10).tolist())) == 10


def test_a_folder_shows_damaged_images_and_the_range_of_sizes(tmp_path):
    save_photos(tmp_path / "pets", ("cat",), each=2, side=(30, 20))
    save_photos(tmp_path / "pets", ("dog",), each=2, side=(50, 40))
    (tmp_path / "pets" / "dog" / "3.jpg").write_bytes(b"\xff\xd8\xff no image")
    page = check_stands_alone(loupe.show(tmp_path / "pets"))
    assert "30–50 × 20–40 px" in page.words and page.words.count("damaged") == 1 and len(page.all("img")) == 4


def test_an_image_is_previewed_as_training_sees_it():
    x, y = arrays((6, 6), side=12)
    settings = {"stages.0.augment": {"horizontal_flip": True}, "input.size_px": 12}
    shown = loupe.preview((x, y), recipe="simple-cnn", image=x[3], views=20, settings=settings)
    page = check_stands_alone(shown)
    original, *views = (pixels(image) for image in page.all("img"))
    assert np.array_equal(original, x[3])
    flipped = [np.array_equal(view, x[3][:, ::-1]) for view in views]
    assert all(np.array_equal(view, x[3]) != turned for view, turned in zip(views, flipped, strict=True))
    assert 4 <= sum(flipped) <= 16 and "Horizontal flip. Each epoch trains on a new view." in page.words
    frozen = Page(loupe.preview((x, y), recipe="simple-cnn", settings={**settings, "stages.0.part": "head"}).html)
    assert len(frozen.all("img")) == 1 + 4 and "Training uses 4 fixed views of each image" in frozen.words
    drawn = Page(loupe.preview((x, y), recipe="simple-cnn", seed=5, settings={"input.size_px": 12}).html)
    [image] = drawn.all("img")
    label = (image["alt"] or "").removeprefix("original of ")
    assert any(np.array_equal(pixels(image), own) for own in x[y == int(label)]) and "No augmentation" in drawn.words


def test_layers_are_those_of_the_recipe_with_what_is_trained():
    data = arrays((2,) * 10, side=32)
    whole = loupe.layers(data, recipe="simple-cnn")
    assert "528,054 parameters: 528,054 trainable, 0 non-trainable" in repr(whole)
    page = check_stands_alone(whole)
    assert "head.hidden1 Linear 500 512,500 yes" in page.words
    head = Page(loupe.layers(data, recipe="simple-cnn", settings={"stages.0.part": "head"}).html).words
    assert "trunk.block1.conv1 Conv2d 16 × 32 × 32 208 no" in head and "head.logits Linear 10 5,010 yes" in head
    assert "Not trainable 10,544" in head


@pytest.mark.usefixtures("bare")
def test_a_large_network_is_shown_by_its_blocks_first():
    data = arrays((2,) * 10, side=32)
    shown = loupe.layers(data, recipe="last-block", settings={"input.size_px": 32, "model.weights": "none"})
    page = check_stands_alone(shown)
    blocks = re.findall(r"(trunk\.(?:stem|block\d)|head) (\d+) [\d ×]+? ([\d,]+) (yes|no) ", page.words)
    assert [name for name, *_ in blocks] == ["trunk.stem", *(f"trunk.block{n}" for n in range(1, 8)), "head"]
    assert [flag for *_, flag in blocks] == ["no"] * 7 + ["yes"] * 2
    total, of_layers = (sum(int(row[at].replace(",", "")) for row in blocks) for at in (2, 1))
    assert f"{total:,} parameters: 1,030,410 trainable" in repr(shown) and f"{of_layers} layers" in page.words


@pytest.mark.parametrize(
    "wrong",
    [
        lambda data: loupe.show(data, count=0),
        lambda data: loupe.show(data, count=401),
        lambda data: loupe.show(data, count=True),
        lambda data: loupe.show(data, count=2.5),
        lambda data: loupe.show(data, seed=-1),
        lambda data: loupe.show(data, split="tests"),
        lambda data: loupe.show(data, split=["val"]),
        lambda data: loupe.show(data, split="test"),
        lambda data: loupe.show("no/such/folder"),
        lambda data: loupe.show(None),
        lambda data: loupe.preview(data, recipe="simple-cnn", views=0),
        lambda data: loupe.preview(data, recipe="simple-cnn", stage=2),
        lambda data: loupe.preview(data, recipe="simple-cnn", image=data[0][:2]),
        lambda data: loupe.preview(data, recipe="simple-cnm"),
        lambda data: loupe.layers(data, recipe="simple-cnn", stage=0),
        lambda data: loupe.layers(data, recipe="simple-cnn", settings={"model.filters": 3}),
        lambda data: labels_of(["a"], ("a", "b"), 2),
        lambda data: labels_of("a", ("a", "b"), 1),
        lambda data: labels_of(["c"], ("a", "b"), 1),
    ],
)
def test_what_cannot_be_shown_is_refused_and_nothing_is_printed(wrong, capfd):
    with pytest.raises(loupe.LoupeError) as error:
        wrong(arrays((4, 4)))
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def test_a_display_is_saved_as_a_page(tmp_path):
    shown = loupe.show(arrays((2, 2)))
    assert shown.save(tmp_path / "a.html").read_text(encoding="utf-8") == shown.html
    with pytest.raises(loupe.DiskError, match="no-folder"):
        shown.save(tmp_path / "no-folder" / "a.html")


def test_the_parts_of_a_run_are_those_of_its_files(tmp_path):
    published = asdict(EXPERIMENTS["simple-cnn"])
    run = make_run(tmp_path / "run", published=published, diagnosis={"verdict": "level", "text": "It fits."})
    run, results = opened(run)
    confusion = run_parts.confusion(run, results)
    page = check_stands_alone(confusion)
    matrix = results.test.confusion_matrix
    counts = [int(found) for found in re.findall(r'title="[^"]*: (\d+) of 20"', confusion.html)]
    assert counts == [count for row in matrix for count in row if count] and not page.all("a")
    assert f"{results.test.mistakes} of 60 test images misclassified" in repr(confusion)
    missed = check_stands_alone(run_parts.missed(run, results))
    assert len(missed.all("img")) == 24
    curves = check_stands_alone(run_parts.curves(run, results))
    assert "It fits." in curves.words and {"Loss", "Accuracy"} <= set(curves.words.split())
    layers = run_parts.layers(run, results)
    assert "101,898 parameters: 101,002 trainable" in repr(layers)
    figures = check_stands_alone(run_parts.published(run, results)).words
    accuracy = results.test.accuracy
    assert f"66.0 % {100 * accuracy.value:.1f} % {100 * accuracy.low:.1f}–{100 * accuracy.high:.1f} %" in figures
    assert "528,054 101,898" in figures and "AUC" not in figures
    cnn = run_parts.published(*opened(make_run(tmp_path / "cnn", published=asdict(EXPERIMENTS["project-cnn"]))))
    scores = [(0.651, "micro_f1"), (0.927, "roc_auc"), (5.479, "log_loss")]
    measured = [(value, results.test.metric(key).value) for value, key in scores]
    assert all(f"{value:.3f} {other:.3f}" in check_stands_alone(cnn).words for value, other in measured)


def test_a_run_without_what_is_asked_for_says_so(tmp_path):
    run = make_run(tmp_path / "run", test=None, validation=None, images={"train": 9, "val": 0, "test": 0})
    for part in (run_parts.confusion, run_parts.missed, run_parts.published):
        with pytest.raises(loupe.RunStateError):
            part(*opened(run))


def test_names_are_text_whatever_they_say(tmp_path):
    plain = tuple(f"class {i}" for i in range(len(HOSTILE)))
    pages = []
    for number, names in enumerate((plain, HOSTILE)):
        x, y = arrays((2,) * len(names))
        run = make_run(tmp_path / str(number), names)
        shown = [
            loupe.show((x, [names[label] for label in y])),
            run_parts.confusion(*opened(run)),
            run_parts.missed(*opened(run)),
        ]
        pages.append([check_stands_alone(one) for one in shown])
    for one, other in zip(*pages, strict=True):
        kinds = [[(tag, sorted(attributes)) for tag, attributes in page.elements] for page in (one, other)]
        assert kinds[0] == kinds[1]
        assert HOSTILE[0] in other.text
    assert all(HOSTILE[3] in page.text for page in pages[1][:2])


def test_a_comparison_shows_its_verdict_and_its_table():
    results = FinishedComparison.of(comparison_content(), Path("comparison.json"))
    page = Page(Page(results._repr_html_()).elements[0][1]["srcdoc"])
    assert results.judgement.conclusion in page.words and "script" not in {tag for tag, _ in page.elements}
    for row, measured in results.measured:
        accuracy = measured.validation.accuracy
        assert f"{row.name}" in page.words and f"{100 * accuracy.value:.1f} %" in page.words
        assert f"{measured.parameters.total:,}" in page.words
        assert f"{measured.validation.roc_auc.value:.3f}" in page.words and measured.diagnosis in page.words
        assert f"{measured.parameters.trainable:,} trainable" in page.words and "0.5 s per epoch" in page.words
    assert "Macro F1 ROC AUC Log loss" in page.words and "failed Failed: the loss is not finite" in page.words
    assert repr(results) == str(results) and results.judgement.conclusion in repr(results)


def run_of_hits(folder: Path, hits: np.ndarray, names=("a", "b"), **changes) -> RunDirectory:
    """A run that classifies these of its validation images correctly; the labels take turns."""
    label = np.arange(len(hits)) % len(names)
    found = predictions(label, np.eye(len(names))[np.where(hits, label, (label + 1) % len(names))], tuple(names))
    run = RunDirectory(make_run(folder, names, **{"validation": metrics.evaluate(found), **changes}))
    write_splits(run.file("predictions.csv"), {"val": found})
    return run


def test_runs_are_compared_with_one_of_them_image_by_image(tmp_path):
    places = np.arange(400)
    hits = {
        "reference": places % 2 == 0,
        "better": places % 4 < 3,  # 100 images more, none fewer
        "worse": places % 4 == 0,
        "equal": (places % 2 == 0) ^ (places < 2),  # one more and one fewer
    }
    first, *others = (run_of_hits(tmp_path / name, hit) for name, hit in hits.items())
    shown = differences(first, others)
    lines = repr(shown).replace("\xa0", " ").splitlines()
    assert lines[:2] == ["Accuracy on 400 validation images", "reference: 50.0 %, reference"]
    assert [line.split(" points")[0] for line in lines[2:]] == [
        "better: 75.0 %, +25.0",
        "worse: 25.0 %, -25.0",
        "equal: 50.0 %, +0.0",
    ]
    assert [line.split("): ")[1] for line in lines[2:]] == [
        "better (p < 0.001)",
        "worse (p < 0.001)",
        "no difference can be told (p = 1.00)",
    ]
    page = check_stands_alone(shown)
    assert "corrected for 3 comparisons" in page.words and "Validation accuracy by epoch" in page.words
    marks = [float(mark["d"][1:].split(" ")[0]) for mark in page.all("path") if mark.get("class") == "value"]
    assert marks[0] - 50 == pytest.approx(50 - marks[1]) and marks[0] > 80 and marks[2] == 50
    limits = [
        [float(x) for x in re.findall(r"[\d.]+(?=(?: 8)|$)", mark["d"])]
        for mark in page.all("path")
        if mark.get("class") == "span"
    ]
    assert all(low < mark < high for (low, high), mark in zip(limits, marks, strict=True)) and limits[0][1] <= 100


def test_p_values_of_several_runs_are_corrected_and_many_runs_have_no_curves(tmp_path):
    hits = np.arange(100) < 50
    first = run_of_hits(tmp_path / "0", hits)
    better = run_of_hits(tmp_path / "1", np.arange(100) < 57)  # 7 against 0: p = 0.016, and six times that 0.094
    same = [run_of_hits(tmp_path / str(number), hits) for number in range(2, 7)]
    assert "better (p = 0.016)" in repr(differences(first, [better]))
    shown = differences(first, [better, *same])
    assert "+7.0" in repr(shown) and "no difference can be told (p = 0.09)" in repr(shown)
    curves = [
        page.html.count("Validation accuracy by epoch</figcaption>") for page in (shown, differences(first, same))
    ]
    assert curves == [0, 1]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first = run_of_hits(tmp_path / "first", np.arange(40) % 2 == 0)
    (tmp_path / "other").mkdir()
    wrong = {
        "at least one other run": [],
        "unique names": [run_of_hits(tmp_path / "other" / "first", np.arange(40) % 3 == 0)],
        "images differ": [run_of_hits(tmp_path / "more", np.arange(60) % 3 == 0)],
        "no predictions of validation images": [RunDirectory(make_run(tmp_path / "none"))],
    }
    for words, others in wrong.items():
        with pytest.raises(loupe.LoupeError, match=words):
            differences(first, others)


def test_a_plan_shows_each_recipe_with_its_cost():
    content = comparison_content()
    same = {key: content[key] for key in ("schema", "version", "name", "seeds", "folds", "settings", "command")}
    rows = [row | {"measured": None} for row in content["rows"]]
    plan = PlannedComparison.of(
        {
            **same,
            **{"dataset": HOSTILE[0], "environment": {}, "images": content["images"], "rows": rows},
            **{"missing": {"small": 2, "large": 2, "failed": 0}, "total": "2 trainings each; in all about 30 s."},
        },
        Path("plan.json"),
    )
    page = Page(Page(plan._repr_html_()).elements[0][1]["srcdoc"])
    assert f"Plan: 3 recipes on {HOSTILE[0]} 2 trainings each; in all about 30 s." in page.words
    assert "Training images 700 Validation images 200 Test images 100 Seeds of each 2" in page.words
    assert "small AdamW 0.01 about 5.0 s 0 bytes 2 large AdamW 0.01 unknown 2 failed AdamW 0.01 5.0 s" in page.words
    assert "script" not in {tag for tag, _ in page.elements}
    assert "| small | AdamW 0.01 | about 5.0 s | 0 bytes | 2 |" in repr(plan) and repr(plan) == str(plan)


@pytest.mark.usefixtures("bare")
def test_a_run_shows_its_predictions_of_images(tmp_path):
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 30)
    x = (random.integers(0, 80, (60, 8, 8)) + 150 * y[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "small.npz", x=x, y=y)
    run = loupe.train(tmp_path / "small.npz", recipe="digits", epochs=2, output=tmp_path / "runs", quiet=True)
    new = run.show(x[[0, 40], :, :, None], labels=["0", None])
    page = check_stands_alone(new)
    probability = run.predict_proba(x[[0, 40], :, :, None]).max(1)
    assert "of 1 labelled image correct" in page.words and len(page.all("img")) == 2
    assert all(f"{100 * value:.0f} %" in repr(new) for value in probability)
    own = run.show(split="val", count=4)
    rows = [int(found) for found in re.findall(r"#(\d+):", repr(own))]
    assert [f"(is {y[row]})" for row in rows] == re.findall(r"\(is \d\)", repr(own)) and len(rows) == 4
    assert all(
        np.array_equal(pixels(i)[..., 0], x[row]) for i, row in zip(Page(own.html).all("img"), rows, strict=True)
    )
    other = loupe.train(tmp_path / "small.npz", recipe="digits", epochs=1, output=tmp_path / "runs", quiet=True)
    assert re.match(rf"Accuracy on 6 .+\n.+\n{other.path.name}: ", repr(run.differences([other])))
    looks = run.evaluate("test").test_looks
    run.show(split="test")
    assert run.evaluate("test").test_looks == looks + 2
    for wrong in ({"count": 0}, {"split": "train"}, {"labels": ["0"]}):
        with pytest.raises(loupe.LoupeError):
            run.show(**wrong)
    with pytest.raises(loupe.DataError, match="at most 200"):
        run.show(np.zeros((201, 8, 8, 1), np.uint8))
