"""Folders, CSV, Parquet, CIFAR archives and arrays become the same table; what is wrong with one is said once."""

import io
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from builders import cifar_files, pack, python2_batch
from loupe.data.sources.archives import unpickle
from loupe.data.sources.folders import scan
from loupe.data.sources.inference_inputs import table_of
from loupe.data.sources.open import from_arrays, from_paths, open_table
from loupe.data.sources.read_options import ReadOptions
from loupe.data.table import SCHEMA, ImageTable, make_rows, os_name, text_name
from loupe.data.unread import IRREGULAR
from loupe.errors import DataError, ImageError, LoupeError

PNG = b"\x89PNG"  # sources look at names and bytes, never at pixels


def open_(data, *, follow_links: bool = False) -> ImageTable:
    return open_table(data, ReadOptions.of(follow_links=follow_links))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def pixels_of(table: ImageTable, i: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(table.encoded(i))))


def labelled(table: ImageTable) -> dict[str, str]:
    return {path: table.classes[label] for path, label in zip(table.paths, table.labels, strict=True)}


# Folders


def test_class_folders_without_splits(tmp_path):
    table = open_(touch(tmp_path, "dog/2.JPG", "cat/1.png", "cat/0.webp"))
    assert labelled(table) == {"cat/0.webp": "cat", "cat/1.png": "cat", "dog/2.JPG": "dog"}
    assert table.classes == ("cat", "dog")
    assert table.splits == [None] * 3
    assert table.notes == ("3 images in 2 classes (cat, dog); no splits given.",)
    assert table.encoded(0) == PNG


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "val", "test"), ["train", "val", "test"]),
        (("Training", "Validation", "TESTING"), ["train", "val", "test"]),
        (("TRAIN", "valid"), ["train", "val"]),
        (("train",), ["train"]),
    ],
)
def test_split_folders_in_any_spelling(tmp_path, names, expected):
    table = open_(touch(tmp_path, *(f"{name}/{label}/1.jpg" for name in names for label in ("a", "b"))))
    assert sorted(table.splits) == sorted(expected * 2)
    assert table.classes == ("a", "b")
    assert f"splits given: {', '.join(f'{name} 2' for name in expected)}" in table.notes[0]


def test_what_is_no_image_is_skipped_and_counted(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/notes.txt", "README.md", ".DS_Store", "cat/._1.jpg", ".git/x/1.jpg")
    touch(tmp_path, "__MACOSX/cat/1.jpg", "docs/deep/a.txt")
    (tmp_path / "fish").mkdir()
    table = open_(tmp_path)
    assert table.paths == ("cat/1.jpg", "dog/1.jpg")
    assert table.notes[1:] == (
        "Skipped 3 files without an image suffix (.txt and .md).",
        "Skipped 2 folders without images (docs and fish).",
        "Skipped 2 hidden folders.",
    )


def test_a_folder_within_a_class_folder_belongs_to_the_class(tmp_path):
    table = open_(touch(tmp_path, "cat/siamese/1.jpg", "cat/2.jpg", "dog/old/deep/3.jpg"))
    assert labelled(table) == {"cat/2.jpg": "cat", "cat/siamese/1.jpg": "cat", "dog/old/deep/3.jpg": "dog"}
    assert "2 images in subfolders of class folders, labelled as that class." in table.notes


def test_stray_images_are_left_out_and_counted(tmp_path):
    table = open_(
        touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/lost.jpg", "top.jpg", "test/1.jpg", "more/x/1.jpg")
    )
    assert table.paths == ("train/a/1.jpg", "train/b/1.jpg")
    assert set(table.notes[1:]) == {
        "Skipped 1 image beside the split folders.",
        "Skipped 1 image in more, which is not a split.",
        "Set aside for `loupe predict`: 1 unlabelled image in test.",
        "Skipped 1 image in train, without a class folder.",
    }
    table = open_(touch(tmp_path / "second", "a/1.jpg", "b/1.jpg", "top.jpg"))
    assert table.notes[1:] == ("Skipped 1 image beside the class folders.",)


def test_a_lone_folder_on_the_way_down_is_entered(tmp_path):
    touch(tmp_path, "pets_filtered/train/a/1.jpg", "pets_filtered/train/b/1.jpg", "pets_filtered/validation/a/1.jpg")
    table = open_(tmp_path)
    assert table.splits == ["train", "train", "val"]
    assert "The images are in pets_filtered/." in table.notes


def test_train_can_be_a_class(tmp_path):
    table = open_(touch(tmp_path, "bus/1.jpg", "car/1.jpg", "train/1.jpg"))
    assert table.classes == ("bus", "car", "train")
    assert table.splits == [None] * 3
    touch(tmp_path, "train/steam/1.jpg")
    with pytest.raises(LoupeError, match="'train' could be a split, or a class beside bus and car"):
        open_(tmp_path)


def test_classes_are_those_of_train_first_and_differences_are_noted(tmp_path):
    table = open_(touch(tmp_path, "train/b/1.jpg", "train/c/1.jpg", "test/a/1.jpg", "test/c/1.jpg"))
    assert table.classes == ("b", "c", "a")
    assert "The split test has classes that train lacks: a." in table.notes
    assert "The split test has no images of b." in table.notes


def test_two_spellings_of_a_split_are_one_split(tmp_path):
    table = open_(touch(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "validation/b/1.jpg"))
    assert table.splits == ["train", "val", "val"]
    assert "The folders val and validation form the split val." in table.notes


@pytest.mark.parametrize("names", [("1.jpg", "2.jpg"), ("train/1.jpg", "test/2.jpg"), ("train/1.jpg",)])
def test_images_without_class_folders_are_refused_with_the_layout(tmp_path, names):
    with pytest.raises(
        LoupeError, match=r"outside of class folders; expected a folder for each class[\s\S]*DATA/train/cat"
    ):
        open_(touch(tmp_path, *names))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(LoupeError, match="there are no images in it"):
        open_(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_but_not_in_circles(tmp_path):
    data = touch(tmp_path / "data", "cat/1.jpg")
    touch(tmp_path / "elsewhere", "1.jpg")
    (data / "dog").symlink_to(tmp_path / "elsewhere")
    (data / "cat" / "up").symlink_to(data)
    (data / "cat" / "self").symlink_to("self")
    (data / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    table = open_(data, follow_links=True)
    assert table.paths == ("cat/1.jpg", "cat/gone.jpg", "dog/1.jpg")
    assert any("Skipped 1 link to a folder that is read already (cat/up)" in note for note in table.notes)
    with pytest.raises(ImageError, match=r"cat/gone\.jpg: cannot be read: No such file"):
        table.encoded(1)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_folders_that_link_to_each_other_give_each_file_once_under_its_own_class(tmp_path):
    names = [f"c{i}" for i in range(8)]
    files = [f"{name}/{k}.jpg" for name in names for k in range(3)]
    data = touch(tmp_path / "data", *files)
    outside = touch(tmp_path / "outside", "x/1.jpg", "y/2.jpg")
    for name in names:
        for other in names:
            (data / name / f"a-{other}").symlink_to(data / other)
    (data / "c0" / "out").symlink_to(outside)
    (data / "c1" / "out").symlink_to(outside)
    (outside / "x" / "up").symlink_to(outside)
    table = open_(data, follow_links=True)
    assert sorted(table.paths) == sorted([*files, "c0/out/x/1.jpg", "c0/out/y/2.jpg"])
    assert {table.classes[label] for label in table.labels} == set(names)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_folder_of_links_alone_is_not_empty(tmp_path):
    farm = touch(tmp_path / "farm", "none/at/all.txt")
    pool = touch(tmp_path / "pool", "cat/1.jpg", "dog/1.jpg")
    for split in ("train", "val"):
        (farm / split).mkdir()
    (farm / "train" / "cat").symlink_to(pool / "cat")
    (farm / "train" / "dog").symlink_to(pool / "dog")
    tree = scan(farm, follow_links=True)
    assert tree.images == ["train/cat/1.jpg", "train/dog/1.jpg"]
    assert tree.empty == ["none", "val"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_devices_and_pipes_are_never_read(tmp_path):
    data = touch(tmp_path / "data", "cat/1.jpg", "dog/1.jpg")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(data / "cat" / "pipe.jpg")
    (data / "cat" / "link.jpg").symlink_to(tmp_path / "pipe")
    (data / "dog" / "zero.jpg").symlink_to("/dev/zero")
    table = open_(data)
    assert table.paths == ("cat/1.jpg", "cat/link.jpg", "dog/1.jpg", "dog/zero.jpg")
    assert [(group.format, group.paths) for group in table.unread] == [(IRREGULAR, ("cat/pipe.jpg",))]
    assert any("not a regular file, as cat/pipe.jpg" in warning for warning in table.warnings)
    for row in (1, 3):
        with pytest.raises(ImageError, match="not a regular file"):
            table.encoded(row)
    for name in ("list.csv", "list.parquet", "arrays.npz", "cifar.tar.gz"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="not a regular file"):
            open_table(tmp_path / name)
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "0.parquet").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="not a regular file"):
        open_table(shards)
    rows = "".join(f"{name},a\n" for name in ("/dev/zero", "pipe", "data", "data/dog/1.jpg"))
    (tmp_path / "rows.csv").write_text("path,label\n" + rows)
    listed = open_table(tmp_path / "rows.csv")
    for row in range(3):
        with pytest.raises(ImageError, match="not a regular file"):
            listed.encoded(row)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LoupeError, match="dog: this folder cannot be read: Permission denied"):
        open_(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="such names exist on Linux alone")
def test_names_that_are_not_utf8_are_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    Path(os.fsdecode(folder + b"/\xff\\x41.jpg")).write_bytes(PNG)
    touch(tmp_path, "tea/1.jpg")
    table = open_(tmp_path)
    assert table.classes == ("caf\\xe9", "tea")
    assert table.paths[0] == "caf\\xe9/\\xff\\x5cx41.jpg"
    assert table.encoded(0) == PNG
    assert from_paths(tmp_path).encoded(0) == PNG


@pytest.mark.parametrize("name", ["a", "日本.png", "a\\x41", "\\x5cx", "new\nline", "\udce9t\udce9"])
def test_text_names_turn_back_into_file_names(name):
    assert os_name(text_name(name)) == name
    text_name(name).encode()


# CSV


def test_csv_with_splits_and_groups(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png", "b 3.png")
    rows = "Path, Label ,split,group,extra\na/1.png,dog,Train,p1,x\n\na/2.png,cat,valid,,x\nb 3.png,cat,,p1,x\n"
    (tmp_path / "list.csv").write_text("\ufeff" + rows, encoding="utf-8")
    table = open_(tmp_path / "list.csv")
    assert labelled(table) == {"a/1.png": "dog", "a/2.png": "cat", "b 3.png": "cat"}
    assert table.splits == ["train", "val", None]
    assert table.groups == ["p1", None, "p1"]
    assert table.encoded(2) == PNG
    assert table.notes[0].endswith("splits given: train 1, val 1, 1 in none.")


def test_csv_labels_that_are_numbers_are_in_their_order(tmp_path):
    touch(tmp_path, "1.png")
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"1.png,{k}\n" for k in (10, 9, 2)))
    table = open_(tmp_path / "list.csv")
    assert table.classes == ("2", "9", "10")
    assert table.labels.tolist() == [2, 1, 0]
    assert table.paths == ("1.png", "1.png (2)", "1.png (3)")
    assert "2 rows with the path of an earlier row." in table.notes


def test_csv_paths_may_be_absolute_or_written_on_windows(tmp_path):
    touch(tmp_path, "data/a/1.png", "lists/x")
    absolute = (tmp_path / "data/a/1.png").as_posix()
    (tmp_path / "lists/list.csv").write_text(f"path,label\n{absolute},x\n..\\data\\a\\1.png,y\n")
    table = open_(tmp_path / "lists/list.csv", follow_links=True)
    assert [table.encoded(i) for i in range(2)] == [PNG, PNG]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: no column of names of image files\. Its columns: none\..*--columns path=COLUMN,label=COLUMN"),
        ("path label\n1.png a\n", r"line 1: no column of names of image files\. Its columns: path label\."),
        ("path,kind\n1.png,a\n", r"line 1: no column of labels\. Its columns: path and kind\..*--columns label=kind"),
        ("path,label,label\n1.png,a,b\n", "the column label repeats"),
        ("path,label\n", "there are no rows below the header"),
        (
            "path,label\n1.png,a\n\nno.png,b\n1.png,\n",
            r"1 problem in 3 rows:\s+line 5: the label",
        ),
        ("path,label,split\n1.png,a,fold3\n", "line 2: unknown split 'fold3'; a split has one of the words train"),
        ("path,label\n1.png,a,b\n", "line 2: 3 cells"),
        ("path,label\n" + "no.png,a\n" * 30, "30 problems[^$]*line 11[^$]*and 20 more"),
        ('path,label\n"1.png,a\n', "not CSV"),
    ],
)
def test_csv_mistakes_are_named_by_line(tmp_path, text, message):
    touch(tmp_path, "1.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(LoupeError, match=message):
        open_(tmp_path / "list.csv")


def test_csv_with_a_name_that_no_file_can_have(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n" + "a" * 300 + ".png,x\nb\\" + "c" * 300 + ".png,x\n")
    with pytest.raises(LoupeError, match=r"(?s)2 problems.*line 2: no such file.*line 3: no such file"):
        open_(tmp_path / "list.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_csv_may_name_files_as_our_own_lists_do(tmp_path):
    names = ["lat\udce9in.png", "back\\slash.png", "hex\\xe9.png"]
    for name in names:
        (tmp_path / name).write_bytes(PNG)
    listed = "".join(f"{text_name(name)},x\n" for name in names)
    (tmp_path / "list.csv").write_text("path,label\n" + listed, encoding="utf-8")
    table = open_(tmp_path / "list.csv")
    assert table.paths == tuple(map(text_name, names))
    assert [table.encoded(i) for i in range(3)] == [PNG] * 3


def test_csv_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes("path,label\n1.png,é\n".encode("latin-1"))
    with pytest.raises(LoupeError, match="not UTF-8"):
        open_(tmp_path / "list.csv")


# Parquet


def shard(path: Path, label, *, image="image", names=None, data=None, paths=None, **columns) -> Path:
    n = len(label)
    values = [
        {"bytes": d, "path": p} for d, p in zip(data or [b"%d" % i for i in range(n)], paths or [None] * n, strict=True)
    ]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(values, struct), "label": label, **columns})
    if names:
        features = {image: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_parquet_shards_with_class_names_in_the_schema(tmp_path):
    for name, label in (
        ("train-00000-of-00002", [0, 2, 1]),
        ("train-00001-of-00002", [1]),
        ("validation-00000-of-00001", [0]),
    ):
        shard(tmp_path / f"{name}.parquet", label, names=["zebra", "ant", "cow"])
    table = open_(tmp_path)
    assert table.classes == ("zebra", "ant", "cow")
    assert table.rows.schema.equals(SCHEMA)
    assert table.splits == ["train"] * 4 + ["val"]
    assert table.labels.tolist() == [0, 2, 1, 1, 0]
    assert table.paths[2:4] == ("train-00000-of-00002.parquet#2", "train-00001-of-00002.parquet#0")
    assert [table.encoded(i) for i in range(4)] == [b"0", b"1", b"2", b"0"]


def test_parquet_keeps_paths_that_tell_images_apart(tmp_path):
    table = open_(shard(tmp_path / "x.parquet", ["b", "a"], image="img", paths=["p.png", "q.png"]))
    assert table.paths == ("p.png", "q.png")
    assert labelled(table) == {"p.png": "b", "q.png": "a"}
    assert open_(shard(tmp_path / "y.parquet", ["b", "a"], paths=["p.png", "p.png"])).paths == (
        "y.parquet#0",
        "y.parquet#1",
    )


def test_parquet_with_one_column_of_images_needs_no_name_for_it(tmp_path):
    table = open_(shard(tmp_path / "x.parquet", ["b", "a"], image="picture", data=[b"0", b"1"]))
    assert (table.classes, [table.encoded(i) for i in range(2)]) == (("a", "b"), [b"0", b"1"])


def test_parquet_without_class_names_or_labels(tmp_path):
    table = open_(shard(tmp_path / "test.parquet", [7, -1, 10, None]))
    assert table.classes == ("7", "10")
    assert table.labels.tolist() == [0, -1, 1, -1]
    assert table.splits == ["test"] * 4
    assert "2 rows without a label (null, -1 or empty)." in table.notes


def test_parquet_split_and_group_columns_and_dictionaries(tmp_path):
    label = pa.array(["x", "y", "x", "x"]).dictionary_encode()
    path = shard(tmp_path / "train.parquet", label, split=["Validation", "", "test", ""], group=[1, 2, 1, 3])
    table = open_(path)
    assert table.splits == ["val", None, "test", None]
    assert table.groups == ["1", "2", "1", "3"]
    with pytest.raises(LoupeError, match="split 'fold3' is not known"):
        open_(shard(path, label, split=["fold3", "", "test", ""]))


def test_an_empty_cell_of_parquet_is_no_class_and_no_group(tmp_path):
    """A group of all images without one would stay on one side of every split."""
    table = open_(shard(tmp_path / "x.parquet", ["x", "", "y"], group=["", "p", ""]))
    assert table.classes == ("x", "y")
    assert table.labels.tolist() == [0, -1, 1]
    assert table.groups == [None, "p", None]


@pytest.fixture
def little_memory(monkeypatch, tmp_path) -> Path:
    """Where rows that are larger than memory are kept, on a machine that has none to spare."""
    monkeypatch.setattr("loupe.data.sources.parquet.default_budget", lambda: 100)
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


def test_parquet_larger_than_memory_is_mapped_from_a_copy(tmp_path, monkeypatch, request):
    monkeypatch.setattr("loupe.data.sources.parquet.BATCH_ROWS", 256)
    data = [bytes([i % 251]) * 10_000 for i in range(500)]
    for k in range(2):
        shard(tmp_path / "set" / f"train-{k:05}-of-00002.parquet", ["b", "a"] * 250, data=data, group=["g"] * 500)
    before = open_(tmp_path / "set")
    rows = request.getfixturevalue("little_memory")
    allocated = pa.total_allocated_bytes()
    table = open_(tmp_path / "set")
    assert pa.total_allocated_bytes() - allocated < 1_000_000, "of 10 MB"
    assert table.rows.equals(before.rows)
    assert (table.classes, table.notes, table.paths) == (before.classes, before.notes, before.paths)
    assert [table.encoded(i) for i in (0, 499, 500, 999)] == [data[0], data[499], data[0], data[499]]
    kept = np.delete(np.arange(1000), (3, 700))
    less = table.select(kept)
    assert pa.total_allocated_bytes() - allocated < 1_000_000, "also where few are left out"
    assert less.rows.equals(before.select(kept).rows)
    assert [less.encoded(i) for i in (2, 3, 698, 997)] == [data[2], data[4], data[199], data[499]]
    copies = {file: file.stat().st_ino for file in rows.iterdir()}
    assert len(copies) == 4  # each copy with its checksums
    monkeypatch.setattr("loupe.data.sources.parquet.image_rows", None)
    assert open_(tmp_path / "set").rows.equals(before.rows), "found again"
    assert {file: file.stat().st_ino for file in rows.iterdir()} == copies


def test_large_images_of_a_parquet_file_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    """Arrow reads no column of structs whose bytes are above 2 GiB at once: 1,024 images of 2 MB each."""
    monkeypatch.setattr("loupe.data.sources.parquet.BATCH_BYTES", 2000)
    data = [b"small"] * 40 + [bytes([k]) * 500 for k in range(60)]
    table = open_(shard(tmp_path / "x.parquet", [0, 1] * 50, data=data))
    assert max(chunk.nbytes for chunk in table.rows["image"].chunks) < 2 * 2000
    assert [table.encoded(i) for i in range(100)] == data


def test_a_parquet_file_that_changed_is_copied_again(tmp_path, little_memory):
    path = shard(tmp_path / "x.parquet", ["a", "b"], data=[b"1" * 100, b"2" * 100])
    assert open_(path).encoded(1) == b"2" * 100
    shard(path, ["a", "b", "b"], data=[b"1" * 100, b"3" * 100, b"4" * 100])
    assert [open_(path).encoded(i) for i in (1, 2)] == [b"3" * 100, b"4" * 100]


def _flipped(data: bytes, at: float) -> bytes:
    k = int(at * len(data))
    return data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "half zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "other half zeros": lambda data: bytes(len(data) // 2) + data[len(data) // 2 :],
    **{f"a bit at {at:.2f}": lambda data, at=at: _flipped(data, at) for at in (0, 0.21, 0.43, 0.5, 0.67, 0.83, 0.99)},
}


@pytest.mark.parametrize("suffix", [".arrow", ".json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_copy_of_parquet_is_made_again(tmp_path, little_memory, how, suffix):
    data = [bytes([k]) * 300 for k in range(40)]
    path = shard(tmp_path / "x.parquet", ["a", "b"] * 20, data=data)
    before = open_(path)
    [copy], [victim] = little_memory.glob("*.arrow"), little_memory.glob(f"*{suffix}")
    whole = copy.read_bytes()
    damaged = tmp_path / "damaged"  # renamed over it, because the old copy is still mapped
    damaged.write_bytes(DAMAGE[how](victim.read_bytes()))
    damaged.replace(victim)
    after = open_(path)
    assert after.rows.equals(before.rows)
    assert [after.encoded(i) for i in range(40)] == data
    assert copy.read_bytes() == whole


def test_a_copy_of_parquet_without_checksums_is_made_again(tmp_path, little_memory, caplog):
    path = shard(tmp_path / "x.parquet", ["a", "b"], data=[b"1" * 100, b"2" * 100])
    open_(path)
    [record] = little_memory.glob("*.json")
    record.unlink()
    assert open_(path).encoded(1) == b"2" * 100
    assert record.exists()
    assert len([entry for entry in caplog.records if "is damaged" in entry.message]) == 1


def test_a_parquet_file_swapped_with_equal_size_and_time_is_copied_again(tmp_path, little_memory):
    one = shard(tmp_path / "x.parquet", ["a", "b"], data=[b"1" * 100, b"2" * 100])
    other = shard(tmp_path / "y.parquet", ["a", "b"], data=[b"3" * 100, b"4" * 100])
    assert one.stat().st_size == other.stat().st_size
    assert open_(one).encoded(1) == b"2" * 100
    times = one.stat().st_atime_ns, one.stat().st_mtime_ns
    other.replace(one)
    os.utime(one, ns=times)
    assert open_(one).encoded(1) == b"4" * 100


def test_a_copy_of_parquet_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path, little_memory, monkeypatch):
    path = shard(tmp_path / "x.parquet", ["a", "b"], data=[b"1" * 100, b"2" * 100])
    monkeypatch.setattr("loupe.data.sources.arrow_cache.SPARE_DISK_BYTES", 2**62)
    with pytest.raises(LoupeError, match=r"do not fit in memory.* larger disk"):
        open_(path)
    monkeypatch.undo()
    monkeypatch.setattr("loupe.data.sources.parquet.default_budget", lambda: 100)
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(200) + whole[204:])
    with pytest.raises(LoupeError, match="cannot be read as Parquet"):
        open_(path)
    assert list(little_memory.iterdir()) == []


def test_parquet_may_hold_paths_in_place_of_bytes(tmp_path):
    touch(tmp_path, "pictures/1.png")
    table = open_(shard(tmp_path / "x.parquet", ["a", "b"], data=[None, b"here"], paths=["pictures/1.png", None]))
    assert [table.encoded(0), table.encoded(1)] == [PNG, b"here"]
    assert table.paths == ("pictures/1.png", "x.parquet#1")


def test_parquet_folders_as_the_hub_has_them(tmp_path):
    shard(tmp_path / "default/train/0000.parquet", [0, 1])
    shard(tmp_path / "default/test/0000.parquet", [1])
    shard(tmp_path / ".cache/train/0000.parquet", [1])
    table = open_(tmp_path)
    assert table.splits == ["test", "train", "train"]
    assert table.paths[0] == "default/test/0000.parquet#0"
    touch(tmp_path, "cats/1.jpg")
    with pytest.raises(LoupeError, match="both images and Parquet files"):
        open_(tmp_path)


def test_missing_shards_are_noted(tmp_path):
    for k in (0, 2):
        shard(tmp_path / f"train-{k:05}-of-00003.parquet", [0, 1])
    assert "train: only 2 of 3 shards found." in open_(tmp_path).notes


def test_shards_win_over_pictures_below_them(tmp_path):
    shard(tmp_path / "train.parquet", [0, 1])
    touch(tmp_path, "preview.png", "assets/logo.png")
    assert len(open_(tmp_path)) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: shard(p, [0, 5], names=["a", "b"]), "label 5 is out of range. Its schema has 2 classes"),
        (lambda p: shard(p, [0, -2], names=["a", "b"]), "label -2 is out of range"),
        (lambda p: shard(p, [0.5, 1.0]), "column 'label' is double"),
        (lambda p: pq.write_table(pa.table({"picture": ["x"], "label": [1]}), p), "no column of names of image files"),
        (lambda p: pq.write_table(pa.table({"image": ["x"], "label": [1]}), p), "row 0: no such file: x"),
        (lambda p: pq.write_table(pa.table({"image": [b"x"], "kind": [1]}), p), "no column of labels.*label=kind"),
        (lambda p: shard(p, pa.array([], pa.int64())), "there are no rows"),
        (lambda p: p.write_bytes(b"PAR1 not parquet"), "cannot be read as Parquet"),
        (lambda p: shard(p, [0, 1], names=["a", "a"]), "class names must be unique; 'a'"),
    ],
)
def test_parquet_mistakes(tmp_path, make, message):
    make(tmp_path / "x.parquet")
    with pytest.raises(LoupeError, match=message):
        open_(tmp_path / "x.parquet")


def test_shards_with_different_class_names_are_refused(tmp_path):
    shard(tmp_path / "a.parquet", [0, 1], names=["x", "y"])
    shard(tmp_path / "b.parquet", [0, 1], names=["y", "x"])
    with pytest.raises(LoupeError, match="its class names or label type differ"):
        open_(tmp_path)
    shard(tmp_path / "a.parquet", ["x", "y"])
    shard(tmp_path / "b.parquet", [0, 1])
    with pytest.raises(LoupeError, match="its class names or label type differ"):
        open_(tmp_path)


# Arrays


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 5, 7, 1), (3, 5, 7, 3), (3, 6, 3, 4), (3, 1, 1, 3)])
def test_arrays_come_back_pixel_for_pixel(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    table = from_arrays(x, [0, 1, 0])
    for i in range(3):
        grey = x.ndim == 3 or x.shape[3] == 1
        expected = np.broadcast_to(x[i].reshape(*x.shape[1:3], 1), (*x.shape[1:3], 3)) if grey else x[i]
        assert np.array_equal(pixels_of(table, i), expected)


def test_arrays_larger_than_one_arrow_chunk(monkeypatch):
    monkeypatch.setattr("loupe.data.sources.bmp.MAX_CHUNK_BYTES", 1000)
    x = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
    table = from_arrays(x, [0, 1] * 5, splits=["train", None] * 5)
    assert table.rows["image"].num_chunks == 3
    assert table.paths == tuple(f"arrays#{i}" for i in range(10))
    assert table.splits == ["train", None] * 5
    for rows in ([9, 2, 2], [1, 4, 9], []):
        part = table.select(rows)
        assert [part.paths[i] for i in range(len(part))][:1] == [table.paths[i] for i in rows][:1]
        assert [part.encoded(i) for i in range(len(part))] == [table.encoded(i) for i in rows]


def test_classes_of_arrays():
    x = np.zeros((4, 2, 2), np.uint8)
    assert from_arrays(x, [3, 10, 3, 1]).classes == ("1", "3", "10")
    assert from_arrays(x, ["b", "a", "b", "a"]).labels.tolist() == [1, 0, 1, 0]
    given = from_arrays(x, [2, 0, 0, 2], classes=("z", "y", "x"))
    assert (given.classes, given.labels.tolist()) == (("z", "y", "x"), [2, 0, 0, 2])
    assert from_arrays(x, ["x", "z", "x", "x"], classes=("z", "x")).labels.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((2, 4, 4), -0.5, np.float32), [0, 1], r"floats from 0 to 1; got -0.5 to -0.5.*before they were"),
        (np.full((2, 4, 4), 256), [0, 1], "pixels must be 0 to 255.*got 256"),
        (np.zeros((2, 3, 8, 8), np.uint8), [0, 1], r"got \[2, 3, 8, 8\]. These look channels-first.*transpose\(0, 2"),
        (np.zeros((4, 4), np.uint8), [0], r"an array \[N, H, W\]"),
        (np.zeros((0, 4, 4), np.uint8), [], "there are no images"),
        (np.zeros((2, 4, 4), np.uint8), [0], r"2 images but labels of shape \[1\]"),
        (np.zeros((2, 4, 4), np.uint8), np.eye(2), r"one-hot labels give y.argmax"),
        (np.zeros((2, 4, 4), np.uint8), [0.5, 1], "labels must be integers or names; got float64"),
    ],
)
def test_arrays_that_do_not_fit(x, y, message):
    with pytest.raises(LoupeError, match=message):
        from_arrays(x, y)


def test_labels_out_of_range_and_unknown_names():
    x = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(LoupeError, match=r"label 2 is out of range\. With 2 classes, labels must be 0 to 1"):
        from_arrays(x, [0, 2], classes=("a", "b"))
    with pytest.raises(LoupeError, match="label 'c' is not among the classes a and b"):
        from_arrays(x, ["a", "c"], classes=("a", "b"))
    with pytest.raises(LoupeError, match="label 3 is out of range"):
        ImageTable(make_rows(n=1, path="a", label=[3]), ("a",), "made")


X = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
Y = np.array([0, 1, 2, 1, 0])


@pytest.mark.parametrize(
    ("data", "splits"),
    [
        ((X, Y), [None] * 5),
        (((X[:3], Y[:3]), (X[3:], Y[3:])), ["train"] * 3 + ["test"] * 2),
        ({"x": X, "y": Y}, [None] * 5),
        ({"images": X, "labels": Y[:, None]}, [None] * 5),
        ({"x_train": X[:3], "y_train": Y[:3], "x_test": X[3:], "y_test": Y[3:]}, ["train"] * 3 + ["test"] * 2),
        (
            {f"{part}_{k}": v for part, s in (("train", slice(3)), ("val", slice(3, 4)), ("test", slice(4, 5)))
             for k, v in (("images", X[s]), ("labels", Y[s, None]))},
            ["train"] * 3 + ["val"] + ["test"],
        ),
    ],
)  # fmt: skip
def test_layouts_of_arrays_from_python_and_from_npz(tmp_path, data, splits):
    tables = [open_(data)]
    if isinstance(data, dict):
        np.savez_compressed(tmp_path / "set.npz", **data)
        tables.append(open_(tmp_path / "set.npz"))
        assert tables[1].name == "set"
    for table in tables:
        assert table.splits == splits
        assert table.labels.tolist() == Y.tolist()
        assert table.classes == ("0", "1", "2")
        assert np.array_equal(pixels_of(table, 3)[..., 0], X[3])
        assert len(set(table.paths)) == 5


def test_arrays_without_their_labels_and_splits_that_are_none():
    with pytest.raises(LoupeError, match="x_test is given without y_test"):
        open_({"x_train": X, "y_train": Y, "x_test": X})
    with pytest.raises(LoupeError, match="split 'fold3' is not known"):
        from_arrays(X, Y, splits=["fold3"] * 5)
    assert from_arrays(X, Y, splits=["Valid"] * 5).splits == ["val"] * 5
    with pytest.raises(LoupeError, match="labels must be integers or names; got object"):
        from_arrays(X, np.array(["a", "b", None, "a", "b"], dtype=object))
    assert from_arrays(X, np.array(["a", "b", "a", "a", "b"], dtype=object)).classes == ("a", "b")


def test_classes_may_stand_beside_the_arrays(tmp_path):
    np.savez(tmp_path / "set.npz", images=X, labels=Y, class_names=np.array(["c", "b", "a"]))
    assert open_(tmp_path / "set.npz").classes == ("c", "b", "a")


@pytest.mark.parametrize("kind", [list, tuple, lambda labels: np.array(labels, dtype=object)])
def test_labels_that_differ_in_nulls_at_their_end_are_different_classes(kind):
    labels = ["a\0", "a", "a\0\0", "b"]
    table = open_((X[:4], kind(labels)))
    assert table.classes == ("a", "a\0", "a\0\0", "b")
    assert [table.classes[label] for label in table.labels] == labels
    named = open_({"x": X[:4], "y": [1, 0, 1, 0], "class_names": kind(["a\0", "a"])})
    assert named.classes == ("a\0", "a")


def test_npz_that_cannot_be_used(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=np.array([{"run": "me"}], dtype=object), labels=[0])
    with pytest.raises(LoupeError, match=r"Object arrays cannot be loaded.*plain arrays only"):
        open_(path)
    np.savez(path, pictures=X, labels=Y)
    with pytest.raises(
        LoupeError, match=r"no images and labels among its arrays \(pictures and labels\). Name them x_train"
    ):
        open_(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(LoupeError, match=r"cannot be read as \.npz"):
        open_(path)
    np.savez_compressed(path, x=np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8), y=[0, 1] * 15)
    data = path.read_bytes()
    path.write_bytes(data[:35] + b"\1" * 25 + data[60:])
    with pytest.raises(LoupeError, match=r"cannot be read as \.npz"):
        open_(path)
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(LoupeError, match=r"set\.npz: it is one array without a name"):
        open_(path)


def test_arrays_of_different_shapes():
    for data in ((X[:2], [[0], [0, 1]]), (np.uint8(1), [1])):
        with pytest.raises(LoupeError, match=r"labels have different shapes|there are no images|must be an array"):
            open_(data)


# CIFAR archives


@pytest.mark.parametrize("kind", [10, 100])
@pytest.mark.parametrize("packed", [True, False, "above"])
def test_cifar_archives(tmp_path, kind, packed):
    files, images, labels = cifar_files(kind)
    if packed is True:
        path = pack(tmp_path / "cifar.tar.gz", files)
    else:
        path = tmp_path / ("cifar-10-batches-py" if kind == 10 else "cifar-100-python")
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
        path = tmp_path if packed == "above" else path
    before = sorted(tmp_path.rglob("*"))
    table = open_(path)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is extracted"
    assert table.name == f"cifar{kind}"
    assert table.classes == tuple(f"class {k}" for k in range(kind))
    assert table.labels.tolist() == labels
    assert table.splits == ["train"] * (len(table) - 2) + ["test"] * 2
    for i in range(len(table)):
        assert np.array_equal(pixels_of(table, i), images[i])


def test_the_hand_written_pickles_are_what_pickle_reads():
    files, images, labels = cifar_files(10)
    batch = pickle.loads(files["data_batch_1"], encoding="bytes")
    assert np.array_equal(batch[b"data"], images[:2].transpose(0, 3, 1, 2).reshape(2, 3072))
    assert batch[b"labels"] == labels[:2]


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(b"cos\nsystem\n(S'exit 3'\ntR.", id="system"),
        pytest.param(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", id="eval"),
        pytest.param(b"cnumpy\nload\n(S'x'\ntR.", id="numpy.load"),
        pytest.param(b"cnumpy.core.multiarray\nfromfile\n.", id="multiarray"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.", id="object dtype"),
        pytest.param(b"\x80\x02U\x01aQ.", id="persistent id"),
        pytest.param(b"(icollections\nOrderedDict\n.", id="inst"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension"),
        pytest.param(b"\x80\x02K\x01.", id="no dictionary"),
    ],
)
def test_the_unpickler_admits_nothing_else(attack):
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        unpickle(attack)


def test_cifar_archives_that_cannot_be_used(tmp_path):
    files, _, _ = cifar_files(10)
    path = tmp_path / "cifar.tar.gz"
    whole = pack(path, files).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoupeError, match=r"damaged or truncated.*Download it again"):
        open_(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(LoupeError, match="damaged or truncated"):
        open_(path)
    pack(path, {k: v for k, v in files.items() if k != "data_batch_3"})
    with pytest.raises(LoupeError, match="data_batch_3 missing"):
        open_(path)
    pack(path, {})
    with pytest.raises(LoupeError, match="not a python archive of CIFAR"):
        open_(path)
    pack(path, {**files, "test_batch": b"cos\nsystem\n(S'exit 3'\ntR."})
    with pytest.raises(LoupeError, match=r"it refers to os\.system"):
        open_(path)
    pack(path, {**files, "test_batch": python2_batch(np.zeros((2, 3072), np.uint8), "labels", [0, 99])})
    with pytest.raises(LoupeError, match="label 99 is out of range"):
        open_(path)
    pack(path, {**files, "test_batch": python2_batch(np.zeros((2, 3000), np.uint8), "labels", [0, 1])})
    with pytest.raises(LoupeError, match="not a valid CIFAR archive"):
        open_(path)


# Paths for prediction


def test_files_folders_and_globs(tmp_path, monkeypatch):
    touch(
        tmp_path,
        "a.jpg",
        "b.png",
        "odd.data",
        "deep/c.jpg",
        "deep/er/d.gif",
        "deep/notes.txt",
        "x[1].jpg",
        "none/t.txt",
    )
    monkeypatch.chdir(tmp_path)
    assert from_paths("a.jpg").paths == ("a.jpg",)
    assert from_paths(["deep", "a.jpg", tmp_path / "deep"]).paths[:3] == ("deep/c.jpg", "deep/er/d.gif", "a.jpg")
    assert from_paths("*.jpg").paths == ("a.jpg", "x[1].jpg")
    assert from_paths(["x[1].jpg"]).paths == ("x[1].jpg",)
    assert from_paths(["**/*.jpg", "a.jpg", "./a.jpg"]).paths == ("a.jpg", "deep/c.jpg", "x[1].jpg")
    assert from_paths("odd.data").paths == ("odd.data",), "a file that is named is taken at its word"
    assert set(from_paths(".").paths) == {"a.jpg", "b.png", "x[1].jpg", "deep/c.jpg", "deep/er/d.gif"}
    everything = from_paths("*")
    assert len(everything) == 5
    assert everything.notes == ("5 images.", "Skipped 3 files without an image suffix (.txt and .data).")
    assert from_paths(tmp_path / "deep").encoded(0) == PNG
    assert len(from_paths(["**", "a.jpg"], unique=False)) == 6, "once for each of the paths that name it"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(from_paths("~/deep")) == 2
    table = from_paths("a.jpg")
    assert table.labels.tolist() == [-1]
    monkeypatch.chdir(tmp_path / "deep")
    assert table.encoded(0) == PNG, "the table does not depend on where one stands later"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.jpg", "no such file or folder"),
        ("*.webp", "no match as a glob"),
        ("empty", "no images"),
        ("*.txt", "but no image"),
        ("a.jpg " * 50, "no such file or folder"),
        ("~nobody-of-that-name/a.jpg", "no such file or folder"),
    ],
)
def test_a_path_that_matches_nothing_is_an_error(tmp_path, monkeypatch, path, message):
    touch(tmp_path, "a.jpg", "b.txt")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoupeError, match=message):
        from_paths(["a.jpg", path])


def test_data_of_an_impossible_name_is_an_error():
    for name in ("a" * 300, "~nobody-of-that-name/a"):
        with pytest.raises(LoupeError, match="no such file or folder"):
            open_(name)


def test_pictures_that_cannot_be_read_say_so(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    cut = Image.open(io.BytesIO(buffer.getvalue()[:1500]))
    for pictures, message in (
        ([tmp_path / "none.jpg", np.zeros((4, 4), np.uint8)], "none.jpg: no such file"),
        ([cut], "a PIL image cannot be read: image file is truncated"),
        ([np.zeros((0, 4, 3), np.uint8)], r"no images in the array of shape \[0, 4, 3\]"),
    ):
        with pytest.raises(LoupeError, match=message):
            table_of(pictures)


def test_no_paths_is_an_error():
    with pytest.raises(LoupeError, match="no paths given"):
        from_paths([])


# The front door, and the table


def test_what_is_not_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "one.jpg", "set.zip", "set.xyz")
    for data, message in (
        ("digts", "Did you mean digits"),
        ("no/such", "no such file or folder"),
        ("ftp://example.org/set", "ftp"),
        ("one.jpg", "a single image has no label"),
        ("set.zip", "unpack this archive"),
        ("set.xyz", "this kind of file is not supported"),
        (3, "data of type int"),
        ((1, 2, 3, 4), "got a tuple of 4"),
    ):
        with pytest.raises(LoupeError, match=message):
            open_(data)


def test_a_path_wins_over_a_name_only_when_it_looks_like_one(tmp_path, monkeypatch):
    touch(tmp_path, "digits/a/1.jpg", "digits/b/1.jpg")
    monkeypatch.chdir(tmp_path)
    named = open_("digits")
    assert len(named) == 1797
    assert any("./digits" in note for note in named.notes)
    assert len(open_("./digits")) == len(open_(Path("digits"))) == 2


def test_a_table_passes_through_and_travels():
    table = open_((X, Y))
    assert open_(table) is table
    there = pickle.loads(pickle.dumps(table))
    assert there.paths == table.paths
    assert there.encoded(4) == table.encoded(4)
    with pytest.raises(IndexError):
        table.encoded(5)
    with pytest.raises(IndexError):
        table.select([0, 5])


def test_sources_leave_torch_alone():
    import subprocess
    import sys

    code = "import sys, loupe.data.sources.open, loupe.data.splits.split; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Real data


def test_real_folders(real_data):
    table = open_(real_data / "cats_vs_dogs")
    assert table.notes == ("4,000 images in 2 classes (cat, dog); splits given: train 2,000, val 800, test 1,200.",)
    first = {split: table.splits.index(split) for split in ("train", "val", "test")}
    assert all(table.encoded(i).startswith(b"\xff\xd8") for i in first.values())
    assert len(from_paths(real_data / "cats_vs_dogs_unlabeled")) == 500
    with pytest.raises(LoupeError, match="outside of class folders"):
        open_(real_data / "cats_vs_dogs_unlabeled")


def test_real_parquet(real_data):
    table = open_(real_data / "cifar10")
    assert (len(table), table.classes[0], table.classes[-1]) == (60_000, "airplane", "truck")
    assert np.array_equal(np.bincount(table.labels), [6000] * 10)
    for i in (0, 9_999, 10_000, 59_999):
        split, label, _ = table.paths[i].split("/")
        assert (split, label) == (table.splits[i], table.classes[table.labels[i]])
        assert pixels_of(table, i).shape == (32, 32, 3)
    assert len(open_(real_data / "cifar10" / "test-00000-of-00001.parquet")) == 10_000
