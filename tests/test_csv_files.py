"""CSV tables: what is written is read back, and a table is whole or not there."""

import csv
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loupe import csv_files
from loupe.data.sources.open import open_table
from loupe.data.splits import split as splits
from loupe.data.splits import split_file
from loupe.data.table import ImageTable, make_rows
from loupe.evaluate.predictions import Predictions

plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
signs = st.text(st.sampled_from("'=+-@\t\r\n \uff1d\uff0b\uff0d\uff201.e\""), max_size=5)
texts = st.builds(lambda start, rest: start + rest, signs, plain)
RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def is_number(text: str) -> bool:
    try:
        return text.isascii() and math.isfinite(float(text))
    except ValueError:
        return False


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(texts, texts, st.floats(allow_nan=False))))
def test_cells_come_back_whatever_they_hold(rows, tmp_path):
    path = tmp_path / "table.csv"
    csv_files.write(path, ("a", "b", "c"), rows)
    with path.open(encoding="utf-8", newline="") as file:
        header, *read = csv.reader(file)
    assert header == ["a", "b", "c"]
    assert [(csv_files.restored(a), csv_files.restored(b), float(c)) for a, b, c in read] == rows
    for cell in (cell for row in read for cell in row[:2]):
        assert not cell.lstrip(" ").startswith(RUN_BY_SPREADSHEETS) or is_number(cell)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(texts, st.none() | texts, st.floats(width=32, allow_nan=False)), min_size=1))
def test_arrow_writes_what_the_other_writer_writes(rows, tmp_path):
    names, kinds = ("a", "b", "c"), (pa.string(), pa.string(), pa.float32())
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    table = pa.table(columns, names=names)
    csv_files.write(tmp_path / "one.csv", names, rows)
    csv_files.write_arrow(tmp_path / "other.csv", [table, table])
    one, other = (
        list(csv.reader((tmp_path / name).open(encoding="utf-8", newline=""))) for name in ("one.csv", "other.csv")
    )
    texts_one, texts_other = ([row[:2] for row in cells] for cells in (one, other))
    assert texts_other == texts_one + texts_one[1:]
    assert csv_files.restored_table(pa.table([pa.array([row[0] for row in one[1:]])], names=["a"])).column(
        "a"
    ).to_pylist() == [row[0] for row in rows]


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "'=1", "\uff1d1"]
)
def test_formulas_get_an_apostrophe(text):
    assert csv_files.neutralised(text) == f"'{text}"
    assert csv_files.restored(f"'{text}") == text


@pytest.mark.parametrize("text", ["", "cat", "'", "'tis", "-1", "+0.5", "-.5e-3", "'-1'", "a=b", "1-2", "5'"])
def test_other_texts_and_numbers_stay_as_they_are(text):
    assert csv_files.neutralised(text) == text
    assert csv_files.restored(text) == text


def test_numbers_stay_numbers(tmp_path):
    csv_files.write(tmp_path / "table.csv", ("a", "b"), [(-0.5, "-0.5000"), (float("-inf"), -3)])
    assert (tmp_path / "table.csv").read_bytes() == b"a,b\n-0.5,-0.5000\n-inf,-3\n"


names = st.lists(texts.filter(bool), min_size=2, max_size=4, unique=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(classes=names, paths=names)
def test_any_name_survives_a_split_file(classes, paths, tmp_path):
    labels = [i % len(classes) for i in range(len(paths))]
    table = ImageTable(make_rows(n=len(paths), path=paths, label=labels), tuple(classes), "t", tmp_path)
    content = [f"{i}" for i in range(len(paths))]
    split = splits.Split(np.array([0]), np.array([1]), np.arange(2, len(paths)))
    split_file.write(tmp_path / "split.csv", table, content, split)
    assert list(split_file.stored(tmp_path / "split.csv")) == paths
    back = split_file.read(tmp_path / "split.csv", table, content)
    assert [back.rows(name).tolist() for name in splits.SPLITS] == [split.rows(name).tolist() for name in splits.SPLITS]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(classes=names, paths=names)
def test_any_name_survives_a_file_of_predictions(classes, paths, tmp_path):
    n, k = len(paths), len(classes)
    logits_NK = -np.arange(n * k, dtype=np.float32).reshape(n, k)
    content = tuple(f"{i}" for i in range(n))
    written = Predictions(tuple(paths), content, np.arange(n) % k, logits_NK, tuple(classes))
    written.write(tmp_path / "p.csv", "test")
    back = Predictions.read(tmp_path / "p.csv", "test")
    assert (back.path, back.classes, back.label.tolist()) == (written.path, written.classes, written.label.tolist())
    np.testing.assert_array_equal(back.logits_NK, logits_NK)


def test_names_like_formulas_survive_a_list_of_images(tmp_path):
    labels = ["=1", "'=1", "'tis", "-1", "@home", "a\rb", "c\nd"]
    paths = [f"{label}/=.png" for label in labels]
    for path in paths:
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"")
    csv_files.write(tmp_path / "kept.csv", ("path", "label"), zip(paths, labels, strict=True))
    table = open_table(tmp_path / "kept.csv")
    assert list(table.paths) == paths
    assert [table.classes[label] for label in table.labels] == labels


def test_rows_by_name_are_in_the_order_of_the_columns_and_may_lack_some(tmp_path):
    csv_files.write(tmp_path / "table.csv", ("a", "b"), [{"b": 1, "a": "x,y", "other": 3}, {"b": None}])
    assert (tmp_path / "table.csv").read_bytes() == b'a,b\n"x,y",1\n,\n'


def test_a_table_that_fails_half_way_leaves_the_one_before(tmp_path):
    path = tmp_path / "table.csv"
    csv_files.write(path, ("a",), [("before",)])

    def rows():
        yield ("after",)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        csv_files.write(path, ("a",), rows())
    assert path.read_text() == "a\nbefore\n"
    assert list(tmp_path.iterdir()) == [path]
