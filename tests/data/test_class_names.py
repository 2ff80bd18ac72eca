"""Names of classes, groups and files in two Unicode forms, near-equal names, and the order of numbers."""

import json
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.data import class_names
from loupe.data.class_names import loosely, similar, sorted_classes
from loupe.data.find_file import existing
from loupe.data.sources.open import from_arrays, from_paths, open_table
from loupe.data.splits import split as splits
from loupe.data.splits import split_file
from loupe.data.splits.split import Split, digest
from loupe.data.table import ImageTable, make_rows, match_classes
from loupe.errors import DataError

NFC, NFD = (normalize(form, "café") for form in ("NFC", "NFD"))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def shard(path: Path, labels, names=None) -> Path:
    table = pa.table({"image": pa.array([b"%d" % k for k in range(len(labels))]), "label": labels})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def of_form(notes) -> list[str]:
    return [note for note in notes if "two Unicode forms" in note]


def test_two_forms_of_a_name_are_one_class_in_every_source(tmp_path):
    touch(tmp_path / "folder", f"{NFC}/1.jpg", f"{NFD}/2.jpg", "tea/1.jpg")
    rows = f"path,label\n{NFD}/2.jpg,{NFD}\n{NFC}/1.jpg,{NFC}\ntea/1.jpg,tea\n"
    (tmp_path / "folder" / "list.csv").write_text(rows, encoding="utf-8")
    tables = [
        open_table(tmp_path / "folder"),
        open_table(tmp_path / "folder" / "list.csv"),
        open_table(shard(tmp_path / "x.parquet", [NFD, NFC, "tea"])),
        open_table((np.zeros((3, 4, 4), np.uint8), [NFC, NFD, "tea"])),
    ]
    for table in tables:
        assert table.classes == (NFC, "tea")
        assert sorted(table.labels.tolist()) == [0, 0, 1]
        assert len(of_form(table.notes)) == 1


def test_the_spelling_that_was_given_is_kept(tmp_path):
    table = open_table(touch(tmp_path, f"train/{NFD}/1.jpg", "train/tea/1.jpg", f"test/{NFC}/1.jpg", "test/tea/1.jpg"))
    assert table.classes == (NFD, "tea")
    assert not [note for note in table.notes if "has no images of" in note or "train lacks" in note]
    assert open_table(shard(tmp_path / "x.parquet", [NFD, "tea"])).classes == (NFD, "tea")


def test_a_schema_with_a_name_in_two_forms_is_refused_and_shards_in_two_forms_are_not(tmp_path):
    with pytest.raises(DataError, match="unique"):
        open_table(shard(tmp_path / "x.parquet", [0, 1], names=[NFC, NFD]))
    (tmp_path / "set").mkdir()
    shard(tmp_path / "set" / "train.parquet", [0, 1], names=[NFC, "tea"])
    shard(tmp_path / "set" / "test.parquet", [0, 1], names=[NFD, "tea"])
    assert open_table(tmp_path / "set").classes == (NFD, "tea")


@pytest.mark.parametrize(("listed", "stored"), [(NFC, NFD), (NFD, NFC)])
def test_files_are_found_in_either_form(tmp_path, listed, stored, monkeypatch):
    touch(tmp_path, f"{stored}/{stored}.jpg", "b.jpg")
    (tmp_path / "list.csv").write_text(f"path,label\n{listed}/{listed}.jpg,a\nb.jpg,b\n", encoding="utf-8")
    table = open_table(tmp_path / "list.csv")
    assert normalize("NFC", table.paths[0]) == f"{NFC}/{NFC}.jpg"
    assert table.encoded(0) == f"{stored}/{stored}.jpg".encode()
    absolute = tmp_path / listed / f"{listed}.jpg"
    (tmp_path / "list.csv").write_text(f"path,label\n{absolute},a\nb.jpg,b\n", encoding="utf-8")
    assert open_table(tmp_path / "list.csv").encoded(0) == f"{stored}/{stored}.jpg".encode()
    monkeypatch.chdir(tmp_path)
    for path in (f"{listed}/{listed}.jpg", listed, absolute):
        assert from_paths(path).encoded(0) == f"{stored}/{stored}.jpg".encode()
    touch(tmp_path, f"{stored}/x/1.jpg", f"{stored}/y/1.jpg")
    assert open_table(tmp_path / listed).classes == ("x", "y")


def test_a_file_of_exactly_that_name_comes_first_and_one_that_is_gone_keeps_its_name(tmp_path):
    touch(tmp_path, f"{NFC}.jpg", f"{NFD}.jpg")
    assert [existing(tmp_path, f"{name}.jpg") for name in (NFC, NFD)] == [f"{NFC}.jpg", f"{NFD}.jpg"]
    assert existing(tmp_path, "né.jpg") == "né.jpg"
    touch(tmp_path, normalize("NFD", "né.jpg"))
    assert existing(tmp_path, "né.jpg") == normalize("NFD", "né.jpg"), "the folder is read again when it changed"


def test_a_model_knows_the_other_form_of_its_classes():
    table = ImageTable(make_rows(n=3, path=["a", "b", "c"], label=[0, 1, None]), (NFD, "tea"), "made")
    assert match_classes(table, ("tea", NFC)).tolist() == [1, 0, -1]
    ordered = table.with_classes(("tea", NFC))
    assert ordered.classes == ("tea", NFC)
    assert ordered.labels.tolist() == [1, 0, -1]
    with pytest.raises(DataError, match=r"'Tea' nearly equals 'tea'"):
        match_classes(ImageTable(make_rows(n=1, path="a", label=[0]), ("Tea",), "made"), ("tea", "x"))


def test_groups_are_compared_in_one_form():
    table = ImageTable(make_rows(n=2, path=["a", "b"], label=[0, 0], group=[NFC, NFD]), ("x",), "made")
    assert len(set(table.groups)) == 1


def test_a_split_is_read_back_where_the_forms_of_paths_and_classes_differ(tmp_path):
    def made(form: str) -> ImageTable:
        paths = [normalize(form, name) for name in ("é/1.jpg", "é/2.jpg", "b/1.jpg", "b/2.jpg")]
        return ImageTable(make_rows(n=4, path=paths, label=[0, 0, 1, 1]), (normalize(form, "é"), "b"), "made")

    content = list("wxyz")
    split = Split(np.array([0, 2]), np.array([1]), np.array([3]))
    split_file.write(tmp_path / "split.csv", made("NFC"), content, split)
    for form in ("NFC", "NFD"):
        again = split_file.read(tmp_path / "split.csv", made(form), content)
        assert [again.rows(name).tolist() for name in splits.SPLITS] == [[0, 2], [1], [3]]
        assert split_file.known(tmp_path / "split.csv", made(form), content).tolist() == [
            "train",
            "val",
            "train",
            "test",
        ]
    assert digest([("x", NFC)]) == digest([("x", NFD)]) != digest([("x", "cafe")])


def test_classes_that_are_whole_numbers_are_in_their_order_in_every_source(tmp_path):
    numbers, order = ["10", "2", "0", "11", "1"], ("0", "1", "2", "10", "11")
    touch(tmp_path / "folder", *(f"{name}/1.jpg" for name in numbers))
    touch(tmp_path / "given", *(f"{part}/{name}/1.jpg" for part in ("train", "test") for name in numbers))
    touch(tmp_path / "given", "test/5/1.jpg")
    lines = [f"folder/{name}/1.jpg,{name}" for name in numbers]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    assert open_table(tmp_path / "folder").classes == order
    assert open_table(tmp_path / "given").classes == ("0", "1", "2", "5", "10", "11")
    assert open_table(tmp_path / "list.csv").classes == order
    assert open_table(shard(tmp_path / "x.parquet", numbers)).classes == order
    assert open_table(shard(tmp_path / "y.parquet", [int(name) for name in numbers])).classes == order
    assert from_arrays(np.zeros((5, 4, 4), np.uint8), numbers).classes == order
    assert sorted_classes(["-1", "+3", "2.0", "010"]) == ("-1", "2.0", "+3", "010")
    assert sorted_classes(["9" * 6000, "1" * 6000])[0][0] == "1", "beyond the digits that int() reads"
    assert sorted_classes(["10", "2", "x"]) == ("10", "2", "x")


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (("Cat", "cat", "dog"), [("Cat", "cat")]),
        (("ice cream", "ice_cream", "Ice-Cream", "ice  cream", "icecream"), 5),
        (("0", "0.0", "1"), [("0", "0.0")]),
        (("1", "01", "1e0", "+1", "1.", " 1"), 6),
        (("ﬁsh", "fish"), [("ﬁsh", "fish")]),
        (("１", "1"), [("１", "1")]),
        (("STRASSE", "straße"), [("STRASSE", "straße")]),
        (("A", "A-", "A+", "-1", "1", "c", "c++", "nan", "inf", ".", "", "1e999999"), []),
    ],
)
def test_names_that_are_nearly_equal_are_noted(names, alike):
    assert similar(names) == ([names] if isinstance(alike, int) else alike)
    assert len(class_names.notes([name for name in names if name != "nan"])) == bool(alike)


def test_a_text_for_a_missing_value_is_noted(tmp_path):
    touch(tmp_path, "1.jpg")
    (tmp_path / "list.csv").write_text("path,label\n1.jpg,NaN\n1.jpg,cat\n1.jpg,Cat\n")
    table = open_table(tmp_path / "list.csv")
    assert table.classes == ("Cat", "NaN", "cat")
    assert [("'NaN'" in note, "'Cat' = 'cat'" in note) for note in table.notes[-2:]] == [(False, True), (True, False)]
    assert class_names.notes(["Nancy", "none", "banana"]) == []


def test_near_names_are_compared_without_an_error():
    for name in ("", " ", "-", "٣", "1_000", "0x10", "1" * 5000, "\x00", "∞", "½"):
        assert isinstance(loosely(name), str)


def grouped(names) -> list[tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(loosely(name), []).append(name)
    return [tuple(same) for same in groups.values() if len(same) > 1]


def test_similar_names_are_those_of_a_comparison_of_all():
    random = np.random.default_rng(0)
    letters = [*" _-\tabAB01.e+-5９éÉ\u0301ﬁ\u2028İß\u00a0١nif"]
    for _ in range(500):
        lengths = random.integers(0, 5, 30)
        names = dict.fromkeys("".join(random.choice(letters, length)) for length in lengths)
        assert similar(names) == grouped(names)
    assert similar(("a\nb", "A\nB", "c")) == [("a\nb", "A\nB")]
    assert similar(()) == []


@pytest.mark.parametrize("form", ["name {:06d}x", "{} kg", "école_{}"])
def test_of_a_hundred_thousand_names_only_those_that_may_be_equal_are_compared(monkeypatch, form):
    compared = []
    monkeypatch.setattr(class_names, "loosely", lambda name: compared.append(name) or loosely(name))
    names = (*(form.format(i) for i in range(100_000)), form.format(7).upper())
    assert similar(names) == [(form.format(7), form.format(7).upper())]
    assert len(compared) == 2
