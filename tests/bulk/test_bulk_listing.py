"""Sources are listed in the order of `loupe predict`, in pieces that need not fit in memory."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.bulk import lists, sorting
from loupe.bulk.lists import ListSource
from loupe.bulk.paths import PathSource
from loupe.bulk.sorting import sorted_names
from loupe.data.sources.folders import from_paths
from loupe.data.sources.inference_list import open_inference_list
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import DataError

NAMES = (
    *("a/1.png", "a-b/1.png", "a.jpg", "a/b/2.png", "a/.hidden.png", ".git/3.png", "Z.png", "a b/é.png", "ab/1.PNG"),
    *("a/note.txt", "__MACOSX/4.png", "a/b/c/d/5.webp", "a/photo.heic", "10.png", "9.png"),
)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in NAMES:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tree"


def listed(*paths, follow_links=False, spill=Path()):
    return [row.path for row in PathSource(paths, follow_links=follow_links).rows(spill)]


@pytest.mark.parametrize("held", [2, 100])
@pytest.mark.parametrize(
    "paths",
    [
        ["tree"],
        ["tree/a", "tree"],
        ["tree/Z.png", "tree"],
        ["tree/*"],
        ["tree/*.png"],
        ["tree/a*/*.png"],
        ["tree/**/*.png"],
        ["tree/a", "tree/a-b", "tree/9.png", "tree/9.png"],
    ],
)
def test_paths_are_listed_in_the_order_of_loupe_predict_each_once(tree, monkeypatch, held, paths):
    monkeypatch.setattr(sorting, "HELD_NAMES", held)
    names = listed(*paths, spill=tree.parent)
    assert sorted(names) == sorted(from_paths(paths).paths)
    assert len(set(names)) == len(names)
    if "**" not in paths[0]:
        assert tuple(names) == from_paths(paths).paths


def test_a_glob_that_matches_a_folder_and_what_is_in_it_lists_the_folder_once(tree):
    assert listed("tree/**", spill=tree.parent) == listed("tree", spill=tree.parent)


def test_what_is_left_out_is_counted_as_loupe_predict_counts_it(tree):
    source = PathSource(["tree"], follow_links=False)
    names = list(source.rows(tree.parent))
    table = from_paths(["tree"])
    assert source.notes() == [note for note in table.notes if "without images" not in note]
    assert source.warnings() == table.warnings
    assert len(names) == len(table)


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
def test_links_are_followed_within_the_folder_and_not_out_of_it(tree, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.png").write_bytes(b"x")
    (tree / "link.png").symlink_to(tmp_path / "other" / "secret.png")
    (tree / "again").symlink_to(tree / "a")
    by_path = {row.path: row for row in PathSource(["tree"], follow_links=False).rows(tmp_path)}
    assert set(by_path) == set(from_paths(["tree"]).paths)
    assert "--follow-links" in (by_path["tree/link.png"].problem or "")
    assert [row for row in by_path.values() if row.problem] == [by_path["tree/link.png"]]
    assert all(row.problem is None for row in PathSource(["tree"], follow_links=True).rows(tmp_path))
    (tree / "out").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match="--follow-links"):
        listed("tree", spill=tmp_path)
    assert "tree/out/secret.png" in listed("tree", follow_links=True, spill=tmp_path)


@pytest.mark.parametrize(
    "paths", [["missing"], ["tree/.git/x"], ["tree/*.bmp"], ["tree/a/note.txt", "nothing/*"], ["empty"]]
)
def test_a_path_without_images_is_an_error_that_names_it(tree, paths):
    (tree.parent / "empty").mkdir()
    with pytest.raises(DataError, match=paths[-1].replace("*", r"\*")):
        listed(*paths, spill=tree.parent)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=40), st.integers(1, 7))
def test_names_are_sorted_whether_they_are_held_or_not(tmp_path_factory, names, held):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "HELD_NAMES", held)
        assert list(sorted_names(iter(names), tmp_path_factory.getbasetemp())) == sorted(names)


def written(folder, suffix, paths, ids):
    """A list of images with identifiers, as CSV, JSON Lines or Parquet."""
    file = folder / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"image_id": ids, "path": paths}), file)
    elif suffix == ".csv":
        file.write_text("image_id,path\n" + "".join(f"{key},{path}\n" for key, path in zip(ids, paths, strict=True)))
    else:
        pairs = zip(ids, paths, strict=True)
        file.write_text("".join(f'{{"image_id": "{key}", "path": "{path}"}}\n' for key, path in pairs))
    return file


@pytest.mark.parametrize("piece", [2, 1000])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_list_is_read_in_pieces_to_the_rows_of_loupe_predict(tree, monkeypatch, suffix, piece):
    monkeypatch.setattr(lists, "PIECE_ROWS", piece)
    paths = ["a/1.png", "Z.png", "a/1.png", "missing.png", "a b/é.png"]
    file = written(tree, suffix, paths, ["5", "3", "1", "4", "2"])
    source, table = ListSource(file, ReadOptions.of()), open_inference_list(file, ReadOptions.of())
    rows = list(source.rows(tree))
    assert [row.path for row in rows] == [name.removesuffix(" (2)") for name in table.table.paths]
    assert (source.id_name, tuple(row.id for row in rows)) == (table.id_name, table.ids)
    assert source.notes()[0] == table.table.notes[0]


@pytest.mark.parametrize("paths", [["x.png", "y.png"], ["../out.png"], []])
def test_a_list_without_a_file_that_may_be_read_is_refused(tree, paths):
    (tree.parent / "out.png").write_bytes(b"x")
    file = written(tree, ".csv", paths, range(len(paths)))
    with pytest.raises(DataError, match=r"list\.csv"):
        list(ListSource(file, ReadOptions.of()).rows(tree))


def test_a_row_that_names_no_file_is_damaged_and_a_row_of_other_cells_refused(tree):
    file = written(tree, ".csv", ["Z.png", "", "9.png"], [1, 2, 3])
    rows = list(ListSource(file, ReadOptions.of()).rows(tree))
    assert [row.problem is None for row in rows] == [True, False, True]
    file.write_text(file.read_text() + "4,Z.png,more\n")
    with pytest.raises(DataError, match="line 5 has 3 cells"):
        list(ListSource(file, ReadOptions.of()).rows(tree))
