"""CSV tables: what is written is read back, and a table is whole or not there."""

import csv

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loupe import csv_files

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(texts, texts, st.floats(allow_nan=False))))
def test_cells_come_back_whatever_they_hold(rows, tmp_path):
    path = tmp_path / "table.csv"
    csv_files.write(path, ("a", "b", "c"), rows)
    with path.open(encoding="utf-8", newline="") as file:
        header, *read = csv.reader(file)
    assert header == ["a", "b", "c"]
    assert [(a, b, float(c)) for a, b, c in read] == rows


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
