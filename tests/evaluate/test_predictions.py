"""Predictions and their CSV file: what is read is what was written, to the bit and to the last comma of a name."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import LoupeError
from loupe.evaluate.predictions import Predictions, join, read_splits, write_splits

NAMES = ("plain", 'comma, "quoted"', "two\nlines", "été 猫 🐈", "logit:odd", " spaced ", "")


def predictions(images: int = 5, classes: tuple[str, ...] = NAMES, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    return Predictions(
        path=tuple(f"{classes[i % len(classes)]}/{i}.png" for i in range(images)),
        content=tuple(f"{i:064x}" for i in range(images)),
        label=random.integers(-1, len(classes), images),
        logits_NK=random.normal(size=(images, len(classes))).astype(np.float32),
        classes=classes,
    )


def same(first: Predictions, second: Predictions) -> bool:
    names = (first.path, first.content, first.classes) == (second.path, second.content, second.classes)
    bits = first.logits_NK.tobytes() == second.logits_NK.tobytes()
    return names and bits and np.array_equal(first.label, second.label)


def test_splits_come_back_in_order_with_difficult_names_and_unknown_labels(tmp_path):
    parts = {"val": predictions(20, seed=1), "test": predictions(30, seed=2), "unlabelled": predictions(3, seed=3)}
    assert min(part.label.min() for part in parts.values()) == -1
    write_splits(tmp_path / "p.csv", parts)
    back = read_splits(tmp_path / "p.csv")
    assert list(back) == list(parts)
    assert all(same(back[split], parts[split]) for split in parts)
    assert same(Predictions.read(tmp_path / "p.csv", "test"), parts["test"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.csv"]


def test_a_file_written_a_few_rows_at_a_time_is_the_same(tmp_path, monkeypatch):
    parts = {"val": predictions(20, seed=1), "test": predictions(0)}
    write_splits(tmp_path / "p.csv", parts)
    monkeypatch.setattr("loupe.evaluate.predictions.CHUNK_ROWS", 3)
    write_splits(tmp_path / "q.csv", parts)
    assert (tmp_path / "q.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()


def test_the_file_says_in_words_what_other_programs_need(tmp_path):
    part = predictions(40)
    part.write(tmp_path / "p.csv", "test")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "split",
        "path",
        "content",
        "label",
        "predicted",
        "probability",
        *(f"logit:{n}" for n in NAMES),
    ]
    for i, row in enumerate(rows):
        assert row["path"] == part.path[i]
        assert row["label"] == ("" if part.label[i] < 0 else NAMES[part.label[i]])
        logits = [float(row[f"logit:{name}"]) for name in NAMES]
        assert row["predicted"] == NAMES[int(np.argmax(logits))]
        assert float(row["probability"]) == pytest.approx(np.exp(max(logits)) / np.exp(logits).sum(), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=12))
def test_every_finite_float32_survives(values, tmp_path_factory):
    logits = np.array([values], np.float32)
    classes = tuple(f"c{i}" for i in range(len(values)))
    part = Predictions(("a",), ("0",), np.array([0]), logits, classes)
    path = tmp_path_factory.mktemp("floats") / "p.csv"
    part.write(path, "test")
    assert Predictions.read(path, "test").logits_NK.tobytes() == logits.tobytes()


def test_no_images_and_many_images(tmp_path):
    write_splits(tmp_path / "p.csv", {"val": predictions(0), "test": predictions(1)})
    assert list(read_splits(tmp_path / "p.csv")) == ["test"]
    large = predictions(5000, tuple(f"class, {i}" for i in range(100)))
    large.write(tmp_path / "large.csv", "test")
    assert same(Predictions.read(tmp_path / "large.csv", "test"), large)


def test_probabilities_of_extreme_logits_stay_finite():
    part = Predictions(("a",), ("0",), np.array([1]), np.array([[3e38, -3e38]], np.float32), ("x", "y"))
    assert part.probabilities_NK.tolist() == [[1.0, 0.0]]
    assert np.isfinite(part.log_probabilities_NK).all()


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    odds_NK = np.exp(logits_NK.astype(np.float64))
    return odds_NK / odds_NK.sum(axis=1, keepdims=True)


def test_calibrated_predictions_have_the_probabilities_of_their_temperature_and_the_same_classes(tmp_path):
    part = predictions(12)
    shown = part.calibrated(2.5)
    np.testing.assert_allclose(shown.probabilities_NK, softmax(part.logits_NK / 2.5), rtol=1e-6)
    np.testing.assert_allclose(part.probabilities_NK, softmax(part.logits_NK), rtol=1e-12)
    assert same(shown, part) and np.array_equal(shown.predicted, part.predicted)
    np.testing.assert_array_equal(shown.select(np.array([4])).probabilities_NK, shown.probabilities_NK[[4]])
    np.testing.assert_array_equal(join([shown, shown]).probabilities_NK[12:], shown.probabilities_NK)
    with pytest.raises(LoupeError, match="temperatures cannot be joined"):
        join([part, shown])


def test_calibrated_logits_that_differ_in_their_last_bit_do_not_tie():
    close = np.array([[1.0, np.nextafter(np.float32(1), np.float32(2))]], np.float32)
    part = Predictions(("a",), ("0",), np.array([1]), close, ("x", "y")).calibrated(3.0)
    assert part.predicted.tolist() == [1] and part.probabilities_NK[0, 1] > 0.5


def test_the_file_has_the_calibrated_probability_beside_the_logits_as_they_are(tmp_path):
    part = predictions(5)
    part.calibrated(0.5).write(tmp_path / "p.csv", "val")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        said = [float(row["probability"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(said, softmax(part.logits_NK / 0.5).max(axis=1), rtol=1e-6)
    back = Predictions.read(tmp_path / "p.csv", "val")
    assert same(back, part) and back.temperature == 1


def test_selecting_keeps_rows_together():
    part = predictions(10)
    chosen = part.select(part.label == part.label[3])
    rows = np.flatnonzero(part.label == part.label[3])
    assert chosen.path == tuple(part.path[row] for row in rows)
    assert np.array_equal(chosen.logits_NK, part.logits_NK[rows])
    assert part.select(np.array([7, 2])).content == (part.content[7], part.content[2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_with_the_image(value):
    logits = np.zeros((3, 2), np.float32)
    logits[1, 0] = value
    with pytest.raises(LoupeError, match=r"not finite for 1 of 3 images \(the first: b\).*--precision fp32"):
        Predictions(("a", "b", "c"), ("0", "1", "2"), np.zeros(3, np.int64), logits, ("x", "y"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.array([0, 2])}, "labels must be 0 to 1"),
        ({"label": np.array([0, -2])}, "labels must be 0 to 1"),
        ({"label": np.array([0])}, "2 images over 2 classes"),
        ({"label": np.array([0.0, 1.0])}, "int64 labels"),
        ({"logits_NK": np.zeros((2, 3), np.float32)}, "2 x 2 logits"),
        ({"logits_NK": np.zeros((2, 2))}, "float32 logits"),
        ({"content": ("0",)}, "1 digest,"),
        ({"classes": ("x", "x")}, r"repeated: \['x'\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    parts = {"path": ("a", "b"), "content": ("0", "1"), "label": np.array([0, 1]), "classes": ("x", "y")}
    with pytest.raises(LoupeError, match=message):
        Predictions(**{**parts, "logits_NK": np.zeros((2, 2), np.float32), **change})


def test_files_that_are_not_predictions_are_refused(tmp_path):
    path = tmp_path / "p.csv"
    with pytest.raises(LoupeError, match="cannot be read"):
        read_splits(path)
    path.write_text("")
    with pytest.raises(LoupeError, match="not a file of predictions"):
        read_splits(path)
    path.write_text("path,label\na,b\n")
    with pytest.raises(LoupeError, match="not a file of predictions"):
        read_splits(path)
    predictions(2, ("x", "y")).write(path, "test")
    text = path.read_text()
    path.write_text(text[: text.rindex(",")])
    with pytest.raises(LoupeError, match="cannot be read"):
        read_splits(path)
    path.write_text(text.replace('"x"', '"z"').replace('"y"', '"z"'))
    with pytest.raises(LoupeError, match="'z' is not one of the classes"):
        read_splits(path)
    path.write_text(text)
    with pytest.raises(LoupeError, match=r"'val'.*test"):
        Predictions.read(path, "val")


def test_splits_of_two_models_do_not_share_a_file(tmp_path):
    with pytest.raises(LoupeError, match="same classes"):
        write_splits(tmp_path / "p.csv", {"val": predictions(2, ("x", "y")), "test": predictions(2, ("x", "z"))})
    assert not list(tmp_path.iterdir())
