"""Lists of images: separators, columns by role, names without extensions, folders of images, and lists to predict."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import picture
from loupe.data.dataset import open_dataset
from loupe.data.sources.columns import MissingColumn
from loupe.data.sources.inference_list import open_inference_list
from loupe.data.sources.open import open_table
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import ConfigError, DataError, ImageError

PNG = picture()
ROWS = [("a.png", "cat", "train", "p1"), ("b.png", "dog", "train", "p1"), ("c.png", "cat", "test", "p2")]


@pytest.fixture
def folder(tmp_path):
    for name, *_ in ROWS:
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def labelled(table):
    return {path: table.classes[k] for path, k in zip(table.paths, table.labels.tolist(), strict=True)}


def listed(*header, rows=ROWS, separator=","):
    return "".join(separator.join(row) + "\n" for row in [header, *(row[: len(header)] for row in rows)])


def unused(table):
    return [note for note in table.notes if note.startswith("Columns not used")]


# One reader of rows, several syntaxes


SYNTAXES = {
    "list.csv": lambda rows: listed("path", "label", "split", "group", rows=rows),
    "list.tsv": lambda rows: listed("path", "label", "split", "group", rows=rows, separator="\t"),
    "tabs.csv": lambda rows: listed("path", "label", "split", "group", rows=rows, separator="\t"),
    "semicolons.csv": lambda rows: listed("path", "label", "split", "group", rows=rows, separator=";"),
    "bars.csv": lambda rows: listed("path", "label", "split", "group", rows=rows, separator="|"),
    "excel.csv": lambda rows: "sep=;\n" + listed("path", "label", "split", "group", rows=rows, separator=";"),
    "quoted.csv": lambda rows: "".join(
        ";".join(f'"{cell}"' for cell in row) + "\r\n" for row in [("path", "label", "split", "group"), *rows]
    ),
    "pandas.csv": lambda rows: (
        ",path,label,split,group\n" + "".join(f"{k},{','.join(row)}\n" for k, row in enumerate(rows))
    ),
    "pandas_again.csv": lambda rows: (
        "Unnamed: 0,path,label,split,group\n" + "".join(f"{k},{','.join(row)}\n" for k, row in enumerate(rows))
    ),
    "r.csv": lambda rows: (
        '"path","label","split","group"\n' + "".join(f'"{k}",{",".join(row)}\n' for k, row in enumerate(rows, 1))
    ),
    "trailing.csv": lambda rows: (
        "path,label,split,group\n" + "".join(",".join(row) + ",\n" for row in rows)
    ),
    "list.jsonl": lambda rows: "".join(
        json.dumps(dict(zip(("path", "label", "split", "group"), row, strict=True))) + "\n\n" for row in rows
    ),
    "objects.ndjson": lambda rows: "".join(
        json.dumps({"image": {"path": path}, "label": label, "split": split, "group": group}) + "\n"
        for path, label, split, group in rows
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SYNTAXES, "list.parquet", "utf16.tsv"])
def test_every_syntax_gives_the_same_table(folder, name):
    path = folder / name
    if name == "list.parquet":
        columns = dict(zip(("path", "label", "split", "group"), map(list, zip(*ROWS, strict=True)), strict=True))
        pq.write_table(pa.table(columns), path)
    elif name == "utf16.tsv":
        write(path, SYNTAXES["list.tsv"](ROWS), "utf-16")
    else:
        write(path, SYNTAXES[name](ROWS))
    table = open_table(path)
    assert labelled(table) == {"a.png": "cat", "b.png": "dog", "c.png": "cat"}
    assert table.splits == ["train", "train", "test"]
    assert table.groups == ["p1", "p1", "p2"]
    assert not unused(table)
    assert ("left out" in " ".join(table.notes)) == (name in {"pandas.csv", "r.csv"})
    assert table.encoded(2) == PNG


def test_numbers_of_json_keep_their_text(folder):
    rows = [("a.png", "1"), ("b.png", "1" * 5000), ("c.png", "1.50")]
    text = "".join(f'{{"path": "{path}", "label": {label}}}\n' for path, label in rows)
    assert set(labelled(open_table(write(folder / "x.jsonl", text))).values()) == {"1", "1" * 5000, "1.50"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"path": "a.png", "label": 1}\n{"path": \n', "line 2: not JSON"),
        ("x.jsonl", '["a.png", 1]\n', "line 1: expected an object"),
        ("x.jsonl", '{"path": "a.png", "label": ' + "[" * 100_000, "line 1: not JSON"),
        ("x.jsonl", '{"path": "\\ud800.png", "label": 1}\n', r"line 1: no such file: \?\.png"),
        ("x.tsv", "path\tlabel\na.png\tx\ty\n", "line 2: 3 cells"),
        ("x.csv", "a" * 200_000, "line 1: not CSV"),
        ("x.csv", "a.png,cat\nb.png,dog\n", "no header, add the line path,label"),
        ("x.csv", "path;label\n", "no rows below the header path,label"),
    ],
)
def test_mistakes_are_named_by_line(folder, name, text, message):
    with pytest.raises(DataError, match=message):
        open_table(write(folder / name, text))


# Columns by role


@pytest.mark.parametrize(
    "header",
    [
        ("image_id", "label"),
        ("file_name", "class"),
        ("filename", "category"),
        ("File Name", "Class"),
        ("filepaths", "labels"),
        ("image", "target"),
        ("imagePath", "className"),
        ("id", "label"),
        ("file", "class"),
    ],
)
def test_names_of_columns_that_cannot_mislead(folder, header):
    table = open_table(write(folder / "list.csv", listed(*header)))
    assert labelled(table) == {"a.png": "cat", "b.png": "dog", "c.png": "cat"}
    assert not unused(table)


def test_a_path_comes_before_an_identifier(folder):
    text = "id,image_id,path,label\n1,x,a.png,cat\n2,y,b.png,dog\n"
    assert labelled(open_table(write(folder / "list.csv", text))) == {"a.png": "cat", "b.png": "dog"}


@pytest.mark.parametrize("header", ["id_code,diagnosis", "Bild,Art", "image_id,dx", "picture,species"])
def test_other_columns_are_refused_with_what_to_type(folder, header):
    path = write(folder / "list.csv", listed(*header.split(",")))
    with pytest.raises(MissingColumn) as refused:
        open_table(path)
    typed = str(refused.value).partition("--columns ")[2].split()[0].strip("'")
    assert labelled(open_table(path, ReadOptions.of(typed)))["b.png"] == "dog"


def test_columns_may_be_chosen_in_python_and_in_text(folder):
    path = write(folder / "list.csv", "kind,file,label,who\nx,a.png,1,p\ny,b.png,1,p\nx,c.png,2,q\n")
    for columns in (
        {"path": "file", "label": "kind", "group": "who"},
        "path=file,label=kind,group=who",
        ["image=file", "label=kind,group=WHO"],
    ):
        table = open_table(path, ReadOptions.of(columns))
        assert labelled(table) == {"a.png": "x", "b.png": "y", "c.png": "x"}
        assert table.groups == ["p", "p", "q"]
        assert unused(table) == ["Columns not used: label."]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ("path=fil", DataError, "no column 'fil'.*Did you mean file"),
        ("paht=file", ConfigError, "paht.*path"),
        ("file", ConfigError, "ROLE=COLUMN"),
        ("path=file,path=label", ConfigError, "repeats"),
        ({"path": 3}, ConfigError, "got 3"),
    ],
)
def test_columns_that_do_not_exist_are_refused(folder, columns, error, message):
    path = write(folder / "list.csv", listed("file", "label"))
    with pytest.raises(error, match=message):
        open_table(path, ReadOptions.of(columns))


def test_columns_are_for_lists_alone(folder):
    for data in ("digits", folder, ([[0]], [0])):
        with pytest.raises(ConfigError, match="has no columns"):
            open_table(data, ReadOptions.of("path=x"))


def test_two_columns_that_could_be_the_label_are_refused(folder):
    path = write(folder / "list.csv", "path,class,category\na.png,x,y\nb.png,y,y\n")
    with pytest.raises(DataError, match=r"class or category could be the label.*--columns label=class"):
        open_table(path)
    assert open_table(path, ReadOptions.of("label=category")).classes == ("y",)


def test_patients_stay_together_without_being_asked(folder):
    table = open_table(write(folder / "list.csv", listed("path", "label", "split", "patient_id")))
    assert table.groups == ["p1", "p1", "p2"]
    assert "Columns: group from patient_id." in table.notes
    none = open_table(folder / "list.csv", ReadOptions.of({"group": ""}))
    assert none.groups == [None, None, None] and unused(none) == ["Columns not used: patient_id."]
    alone = open_table(write(folder / "list.csv", "path,label,patient_id\na.png,x,1\nb.png,y,2\n"))
    assert alone.groups == [None, None], "no patient has two images"


def test_every_column_that_is_not_used_is_named_with_what_it_might_be(folder):
    text = "path,label,age,lesion_id,fold\na.png,x,3,l1,0\nb.png,y,4,l1,1\nc.png,x,5,l2,2\n"
    table = open_table(write(folder / "list.csv", text))
    [note] = unused(table)
    assert note == (
        "Columns not used: age, lesion_id (perhaps the group) and fold (perhaps the split). To use one: "
        "--columns split=fold:0,group=lesion_id"
    )
    chosen = open_table(folder / "list.csv", ReadOptions.of("split=fold:0,group=lesion_id"))
    assert (chosen.splits, chosen.groups) == (["val", "train", "train"], ["l1", "l1", "l2"])


# The column of splits


@pytest.mark.parametrize(
    ("name", "values", "splits"),
    [
        ("is_valid", ("True", "False", "False"), ["val", "train", "train"]),
        ("is_valid", ("0", "0", "1"), ["train", "train", "val"]),
        ("isVal", ("no", "yes", "no"), ["train", "val", "train"]),
        ("is_test", ("1.0", "0.0", "0.0"), ["test", "train", "train"]),
        ("is_valid", ("True", "True", "True"), [None, None, None]),
        ("is_valid", ("maybe", "no", "no"), [None, None, None]),
        ("Set", ("Train", "Valid", "Test"), ["train", "val", "test"]),
        ("subset", ("train", "", "test"), ["train", None, "test"]),
        ("data set", ("train", "valid", "test"), ["train", "val", "test"]),
        ("partition", ("0", "1", "2"), [None, None, None]),
        ("fold", ("train", "train", "val"), ["train", "train", "val"]),
        ("usage", ("Public", "train", "test"), [None, None, None]),
        ("camera", ("train", "val", "test"), [None, None, None]),
    ],
)
def test_splits_in_other_spellings(folder, name, values, splits):
    text = f"path,label,{name}\n" + "".join(f"{row[0]},cat,{value}\n" for row, value in zip(ROWS, values, strict=True))
    table = open_table(write(folder / "list.csv", text))
    assert table.splits == splits
    assert bool(unused(table)) == (splits == [None] * 3)


def test_a_fold_that_validates_is_chosen(folder):
    path = write(folder / "list.csv", "path,label,kfold\na.png,x,0.0\nb.png,y,1.0\nc.png,x,1.0\n")
    assert open_table(path, ReadOptions.of("split=kfold:1")).splits == ["train", "val", "val"]
    with pytest.raises(DataError, match=r"0.0 and 1.0.*--columns split=kfold:0.0"):
        open_table(path, ReadOptions.of("split=kfold"))
    with pytest.raises(DataError, match="No row has '7'"):
        open_table(path, ReadOptions.of("split=kfold:7"))


def test_two_columns_of_splits_are_refused(folder):
    path = write(folder / "list.csv", "path,label,set,subset\na.png,x,train,val\nb.png,x,val,train\n")
    with pytest.raises(DataError, match="set or subset could be the split"):
        open_table(path)
    assert open_table(path, ReadOptions.of("split=subset")).splits == ["val", "train"]
    assert open_table(path, ReadOptions.of({"split": ""})).splits == [None, None]


# One-hot columns


@pytest.mark.parametrize(("one", "zero"), [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_one_hot_columns(folder, one, zero):
    text = f"image,MEL,NV,UNK\na,{one},{zero},{zero}\nb,{zero},{one},{zero}\nc,{one},{zero},{zero}\n"
    table = open_table(write(folder / "list.csv", text))
    assert labelled(table) == {"a.png": "MEL", "b.png": "NV", "c.png": "MEL"}
    assert table.classes == ("MEL", "NV")


def test_flags_that_are_no_classes_are_refused(folder):
    text = "path,cat,dog,smiles\na.png,1,0,1\nb.png,0,1,1\nc.png,1,0,0\n"
    path = write(folder / "list.csv", text)
    with pytest.raises(MissingColumn, match=r"label=cat\+dog\+smiles"):
        open_table(path)
    assert labelled(open_table(path, ReadOptions.of("label=cat+dog")))["b.png"] == "dog"
    with pytest.raises(DataError, match=r"line 2: 2 of the one-hot columns are 1"):
        open_table(path, ReadOptions.of("label=cat+smiles"))


def test_one_hot_columns_of_parquet_with_images(tmp_path):
    image = pa.array([{"bytes": PNG, "path": None}] * 3, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"picture": image, "cat": [1, 0, 1], "dog": [0, 1, 0]}), tmp_path / "x.parquet")
    table = open_table(tmp_path / "x.parquet")
    assert (table.classes, table.labels.tolist()) == (("cat", "dog"), [0, 1, 0])


def test_columns_of_parquet_with_images(tmp_path):
    image = pa.array([{"bytes": PNG, "path": None}] * 4, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {
        "img": image,
        "diagnosis": list("xyxy"),
        "patient_id": [1, 1, 2, 2],
        "is_valid": [False, False, False, True],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(MissingColumn, match="--columns label=diagnosis"):
        open_table(tmp_path / "x.parquet")
    table = open_table(tmp_path / "x.parquet", ReadOptions.of("label=diagnosis"))
    assert table.classes == ("x", "y")
    assert table.groups == ["1", "1", "2", "2"]
    assert table.splits == ["train", "train", "train", "val"]


# Where the files are


def test_names_without_extensions(folder):
    table = open_table(write(folder / "list.csv", "id,label\na,cat\nb,dog\n"))
    assert labelled(table) == {"a.png": "cat", "b.png": "dog"}
    (folder / "a.jpg").write_bytes(PNG)
    with pytest.raises(DataError, match=r"line 2: a is the name of a.jpg and a.png"):
        open_table(folder / "list.csv")
    (folder / "c").mkdir()
    assert open_table(write(folder / "list.csv", "id,label\nc,cat\nb,dog\n")).paths == ("c.png", "b.png")


def test_images_in_another_folder(folder):
    elsewhere = folder / "elsewhere" / "deep" / "er"
    elsewhere.mkdir(parents=True)
    for k in range(3):
        (elsewhere / f"isic.{k}.jpg").write_bytes(PNG)
    path = write(folder / "lists" / "list.csv", "image_id,label\nisic.0,x\nisic.1.jpg,y\ner/isic.2,x\n")
    with pytest.raises(DataError, match=r"None of the files is found.*--images FOLDER"):
        open_table(path)
    table = open_table(path, ReadOptions.of(images=folder / "elsewhere"))
    assert table.paths == ("deep/er/isic.0.jpg", "deep/er/isic.1.jpg", "deep/er/isic.2.jpg")
    assert table.encoded(0) == PNG
    (folder / "elsewhere" / "isic.0.png").write_bytes(PNG)
    with pytest.raises(DataError, match=r"line 2: isic\.0 is the name of deep/er/isic\.0\.jpg and isic\.0\.png"):
        open_table(path, ReadOptions.of(images=folder / "elsewhere"))


def test_a_folder_that_has_the_files_is_named(folder):
    (folder / "train").mkdir()
    (folder / "train" / "1.jpg").write_bytes(PNG)
    path = write(folder / "labels.csv", "id,label\n1,x\n")
    with pytest.raises(DataError) as refused:
        open_table(path)
    assert str(folder / "train") in str(refused.value).partition("--images")[2]


def test_a_folder_of_images_that_does_not_exist_is_refused(folder):
    with pytest.raises(ConfigError, match="no such folder"):
        open_table(write(folder / "list.csv", listed("path", "label")), ReadOptions.of(images=folder / "none"))


def test_a_file_of_another_folder_is_not_taken_for_one_that_is_missing(folder):
    (folder / "test").mkdir()
    (folder / "test" / "1.png").write_bytes(PNG)
    path = write(folder / "list.csv", "path,label\ntrain/1.png,x\ntest/1.png,y\n")
    table = open_table(path, ReadOptions.of(images=folder))
    assert table.paths == ("train/1.png", "test/1.png")
    with pytest.raises(ImageError, match=r"train/1\.png: cannot be read"):
        table.encoded(0)
    assert table.origin.place(0) == "list.csv, line 2"


# Metadata files, as in the Hugging Face ImageFolder layout


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("splits", [(), ("train", "test")])
def test_metadata_beside_the_images(tmp_path, name, splits):
    for folder in [tmp_path / split for split in splits] or [tmp_path]:
        folder.mkdir(exist_ok=True)
        rows = [{"file_name": f"{k}.png", "label": "xy"[k % 2]} for k in range(4)]
        for row in rows:
            (folder / row["file_name"]).write_bytes(PNG)
        (folder / "more.png").write_bytes(PNG)
        if name.endswith("parquet"):
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        elif name.endswith("csv"):
            write(folder / name, "file_name,label\n" + "".join(f"{row['file_name']},{row['label']}\n" for row in rows))
        else:
            write(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
    table = open_table(tmp_path)
    assert table.classes == ("x", "y") and len(table) == 4 * max(1, len(splits))
    assert sorted(set(table.splits), key=str) == (sorted(splits) if splits else [None])
    assert table.encoded(len(table) - 1) == PNG
    assert any("not listed there left out" in note for note in table.notes)


PATHS = {
    "train/1.png test/2.png": ["train", "test"],
    "pets/train/cat/1.png pets/val/cat/2.png pets/test/dog/3.png": ["train", "val", "test"],
    "training_set/1.png hold-out/2.png": ["train", "test"],
    "test/train/1.png test/dev/2.png": ["train", "val"],  # the folder that all have in common does not count
    "train/1.png test/2.png unlabelled/3.png": ["train", "test", None],
    "train/1.png test/2.png other/3.png": None,
    "train/1.png train/2.png": None,
    "val/1.png test/2.png": None,
    "train_tracks/1.png test_tube/2.png": None,
    "train-1.png test-2.png": None,
}


@pytest.mark.parametrize("as_metadata", [False, True])
@pytest.mark.parametrize("paths", PATHS)
def test_split_folders_in_paths_are_splits_where_no_column_is(tmp_path, paths, as_metadata):
    names = paths.split()
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    rows = "".join(f"{name},a\n" for name in names)
    header, file = ("file_name", "metadata.csv") if as_metadata else ("path", "list.csv")
    write(tmp_path / file, f"{header},label\n{rows}")
    source = tmp_path if as_metadata else tmp_path / file
    splits = PATHS[paths]
    table = open_table(source)
    assert list(table.splits) == (splits or [None] * len(names))
    said = [note for note in table.notes if "folders in the paths" in note or "no column of splits" in note]
    assert len(said) == (splits is not None or "other" in paths)
    assert {use.use for use in table.layout} == ({split or "predict" for split in splits} if splits else {"no split"})
    drawn = open_table(source, ReadOptions.of("split="))
    assert list(drawn.splits) == [None] * len(names) and len(drawn.layout) == 1
    write(tmp_path / file, f"{header},label,split\n" + "".join(f"{row},train\n" for row in rows.splitlines()))
    assert list(open_table(source).splits) == ["train"] * len(names), "a column comes before the paths"


def test_split_folders_in_paths_that_share_no_class_are_none(tmp_path):
    """Which works as ever, and is said."""
    for name in ("train/1.png", "test/2.png"):
        write(tmp_path / name, "").write_bytes(PNG)
    table = open_table(write(tmp_path / "list.csv", "path,label\ntrain/1.png,a\ntest/2.png,b\n"))
    assert list(table.splits) == [None, None]
    assert any("test and train in the paths could be splits" in note for note in table.notes)


def test_metadata_without_labels_leaves_those_of_the_folders(tmp_path):
    for name in ("cat/1.png", "dog/2.png"):
        write(tmp_path / name, "").write_bytes(PNG)
    write(tmp_path / "metadata.csv", "file_name,age\ncat/1.png,3\ndog/2.png,4\n")
    assert labelled(open_table(tmp_path)) == {"cat/1.png": "cat", "dog/2.png": "dog"}
    (tmp_path / "dog" / "2.png").rename(tmp_path / "2.png")
    (tmp_path / "cat" / "1.png").rename(tmp_path / "1.png")
    with pytest.raises(MissingColumn, match="label=age"):
        open_table(tmp_path)


def test_metadata_that_names_no_files_is_as_any_other_file(tmp_path):
    for name in ("cat/1.png", "dog/2.png"):
        write(tmp_path / name, "").write_bytes(PNG)
    write(tmp_path / "metadata.csv", "author,year\nme,1999\n")
    assert open_table(tmp_path).classes == ("cat", "dog")


# Lists to predict


def test_lists_to_predict_keep_their_order_and_identifiers(folder):
    text = "id,file_name,label\n30,c.png,?\n7,a.png,?\n30,c.png,?\n"
    listed_images = open_inference_list(write(folder / "list.csv", text), ReadOptions.of())
    assert listed_images.table.paths == ("c.png", "a.png", "c.png (2)")
    assert (listed_images.id_name, listed_images.ids) == ("id", ("30", "7", "30"))
    assert listed_images.by_path() == {"c.png": "30", "a.png": "7", "c.png (2)": "30"}
    assert listed_images.table.labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.parquet"])
def test_lists_to_predict_of_every_syntax(folder, name):
    names = ["b", "a", "c"]
    if name == "x.parquet":
        pq.write_table(pa.table({"image_id": names}), folder / name)
    elif name == "x.jsonl":
        write(folder / name, "".join(json.dumps({"image_id": one}) + "\n" for one in names))
    else:
        write(folder / name, "image_id\n" + "\n".join(names) + "\n")
    found = open_inference_list(folder / name, ReadOptions.of())
    assert found.table.paths == ("b.png", "a.png", "c.png")
    assert (found.id_name, found.ids) == ("image_id", ("b", "a", "c"))


def test_images_in_parquet_to_predict(tmp_path):
    image = pa.array([{"bytes": PNG, "path": None}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "id": [11, 5]}), tmp_path / "x.parquet")
    found = open_inference_list(tmp_path / "x.parquet", ReadOptions.of())
    assert (found.id_name, found.ids, found.table.encoded(1)) == ("id", ("11", "5"), PNG)
    pq.write_table(pa.table({"image": image}), tmp_path / "y.parquet")
    assert open_inference_list(tmp_path / "y.parquet", ReadOptions.of()).ids == ("y.parquet#0", "y.parquet#1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\n", "no rows"),
        ("path,id\na.png\n", "line 2 has 1 cell"),
        ("what\na.png\n", "no column of names of image files"),
        ("path\nnone.png\n", "none of its files is found"),
    ],
)
def test_lists_that_cannot_be_predicted(folder, text, message):
    with pytest.raises(DataError, match=message):
        open_inference_list(write(folder / "list.csv", text), ReadOptions.of())


# What a run records


def test_options_are_recorded_and_read_back(folder):
    from loupe.provenance import RunEnvironment

    options = ReadOptions.of("path=image_id,label=dx", folder)
    environment = RunEnvironment.model_validate({"data": "x.csv", **options.to_json()})
    assert RunEnvironment.model_validate(environment.to_json()).read_options() == options
    assert environment.read_options_of_others().images is None
    assert options.words == ["--columns", "path=image_id,label=dx", "--images", str(folder)]
    assert ReadOptions.of().to_json() == {"follow_links": False} and not ReadOptions.of()


def test_links_are_followed_in_evaluations_of_a_run_as_in_its_training_and_not_in_other_data():
    from loupe.provenance import RunEnvironment

    asked, default = ReadOptions.of(follow_links=True), ReadOptions.of()
    assert not asked, "not an option of lists alone"
    assert asked.words == ["--follow-links"]
    for options in (asked, default):
        environment = RunEnvironment.model_validate({"data": "x.csv", **options.to_json()})
        assert RunEnvironment.model_validate(environment.to_json()).read_options() == options
        assert not environment.read_options_of_others().follow_links
        assert environment.read_options(follow_links=True) == asked
        assert environment.read_options_of_others(follow_links=True).follow_links
    earlier = RunEnvironment.model_validate({"data": "x.csv"})
    assert earlier.read_options() == asked, "before links were recorded, they were followed"
    assert not earlier.read_options_of_others().follow_links


def test_columns_of_a_run_are_taken_where_another_list_has_them(folder):
    from loupe.provenance import RunEnvironment

    options = RunEnvironment(columns={"path": "bild", "label": "art"}).read_options_of_others()
    one = open_dataset(write(folder / "1.csv", listed("bild", "art")), options)
    other = open_dataset(write(folder / "2.csv", listed("path", "label")), options)
    assert one.table.rows.equals(other.table.rows)
    assert len(open_dataset("digits", options).table) == 1797
