"""Rows of a list that cannot be read are damaged images with file and row: checked, left out, or refused by name."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from loupe.cli.main import app
from loupe.config.recipe import Preprocessing
from loupe.data.audit.check import check
from loupe.data.dataset import open_dataset
from loupe.data.origin import of_lines, of_rows
from loupe.data.pixels.decoding import DamagedImages
from loupe.data.pixels.prepare import load_images
from loupe.errors import DataError
from loupe.runs.train import train

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PREPROCESSING = Preprocessing(size_px=8, load_px=8)


def picture(path: Path, k: int) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return path.read_bytes()


def csv_list(folder: Path, bad: str) -> Path:
    """Twelve images, the fourth row of which is `bad`, with a blank line before it."""
    for k in range(12):
        picture(folder / f"{k:02}.png", k)
    names = [f"{k:02}.png" for k in range(12)]
    names[3] = bad
    rows = [f"{name},{'ab'[k % 2]}" for k, name in enumerate(names)]
    (folder / "list.csv").write_bytes(os.fsencode("path,label\n" + "\n".join([*rows[:3], "", *rows[3:]]) + "\n"))
    return folder / "list.csv"


def parquet_list(folder: Path, bad: object, *, paths: bool = True) -> Path:
    """Two shards of six images, in the second of which row 2 is `bad`."""
    for shard in range(2):
        images: list[object] = [
            {"bytes": picture(folder / "made" / f"{k}.png", k), "path": f"{k}.png" if paths else None}
            for k in range(6 * shard, 6 * shard + 6)
        ]
        if shard == 1:
            images[2] = bad
        table = pa.table({"image": pa.array(images, STRUCT), "label": [*"ababab"]})
        pq.write_table(table, folder / f"train-0000{shard}-of-00002.parquet")
    for file in (folder / "made").iterdir():
        file.unlink()
    (folder / "made").rmdir()
    return folder


def examined(data: Path, index: int, place: str):
    """What check, loading, and loading without damaged images say of the one row that cannot be read."""
    dataset = open_dataset(data, announce=False)
    report = check(dataset.table, dataset.hashes)
    assert len(report.damaged) == 1 and not report.ok
    (error,) = report.damaged
    assert error.path == dataset.table.paths[index]
    assert f"({place})" in error.reason
    with pytest.raises(DamagedImages) as refused:
        load_images(dataset, PREPROCESSING, cache=None)
    assert refused.value.indices.tolist() == [index]
    assert refused.value.errors[0].reason == error.reason
    assert place in str(refused.value)
    left = load_images(dataset, PREPROCESSING, cache=None, skip_damaged=True)
    assert left.damaged == 1 and len(left.table) == len(dataset.table) - 1
    assert error.path not in left.table.paths and len(set(left.table.paths)) == len(left.table)
    return error


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "no image"),
        ("none.png", "cannot be read: No such file"),
        ("none/deep/none.png", "cannot be read: No such file"),
        (".", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("n" * 300 + ".png", "cannot be read: File name too long"),
        ("nul\0.png", "cannot be read"),
        ("list.csv", "not a JPEG"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="words of the system, and its devices")
def test_a_row_of_csv_that_cannot_be_read(tmp_path, bad, reason):
    error = examined(csv_list(tmp_path, bad), 3, "list.csv, line 6")
    assert reason in error.reason
    assert error.path == (bad or "list.csv#6")


@pytest.mark.parametrize("paths", [True, False], ids=["paths", "no paths"])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "no image: neither bytes nor a path"),
        ({"bytes": None, "path": None}, "no image: neither bytes nor a path"),
        ({"bytes": None, "path": ""}, "no image: neither bytes nor a path"),
        ({"bytes": None, "path": "none.png"}, "cannot be read: No such file"),
        ({"bytes": None, "path": "/dev/zero"}, "not a regular file"),
        ({"bytes": None, "path": "nul\0.png"}, "cannot be read"),
        ({"bytes": b"", "path": "8.png"}, "the file is empty"),
        ({"bytes": b"{}", "path": "8.png"}, "not a JPEG"),
        ({"bytes": b"\x89PNG\r\n\x1a\n", "path": None}, "PNG"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="words of the system, and its devices")
def test_a_row_of_parquet_that_cannot_be_read(tmp_path, bad, reason, paths):
    error = examined(parquet_list(tmp_path, bad, paths=paths), 8, "train-00001-of-00002.parquet, row 2, counted from 0")
    assert reason in error.reason


def test_images_beside_a_row_without_one_keep_their_names(tmp_path):
    table = open_dataset(parquet_list(tmp_path, None), announce=False).table
    assert table.paths[7:10] == ("7.png", "train-00001-of-00002.parquet#2", "9.png")


def test_a_path_that_is_not_utf_8_is_a_name(tmp_path):
    data = picture(tmp_path / "made.png", 0)
    raw = pa.array([b"caf\xe9.png", b"b.png"], pa.binary())
    claimed = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    image = pa.StructArray.from_arrays([pa.array([data, data], pa.binary()), claimed], ["bytes", "path"])
    pq.write_table(pa.table({"image": image, "label": ["x", "y"]}), tmp_path / "set.parquet")
    assert open_dataset(tmp_path / "set.parquet", announce=False).table.paths == ("caf\\xe9.png", "b.png")


def test_a_list_of_which_no_file_is_there_is_refused_as_a_whole(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.png,x\nb.png,y\n")
    with pytest.raises(DataError, match=r"(?s)2 problems in 2 rows.*line 2: no such file: a.png"):
        open_dataset(tmp_path / "list.csv")


def test_the_row_is_that_of_the_list_after_a_selection():
    assert of_lines("list.csv", [2, 3, 5, 9]).select(np.array([3, 1])).place(0) == "list.csv, line 9"
    origin = of_rows(["a.parquet", "b.parquet"], [3, 2])
    assert [origin.name(i) for i in range(5)] == ["a.parquet#0", "a.parquet#1", "a.parquet#2", *_names("b.parquet", 2)]


def _names(file: str, count: int) -> list[str]:
    return [f"{file}#{k}" for k in range(count)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_commands_list_leave_out_and_refuse_such_a_row(tmp_path, kind):
    folder = tmp_path / "data"
    data = csv_list(folder, "none.png") if kind == "csv" else parquet_list(folder, None)
    place = "list.csv, line 6" if kind == "csv" else "train-00001-of-00002.parquet, row 2"
    shown = CliRunner().invoke(app, ["check", str(data), "--json"])
    assert shown.exit_code == 1
    (damaged,) = json.loads(shown.stdout)["damaged"]
    assert place in damaged["reason"]
    settings = {"split.validation": 2, "split.test": 0}
    asked = SimpleNamespace(recipe="digits", epochs=1, output=tmp_path / "runs", settings=settings, quiet=True)
    with pytest.raises(DamagedImages, match=place):
        train(data, **vars(asked))
    run = train(data, **vars(asked), skip_damaged=True)
    assert run.results.damaged == 1
    assert run.evaluate("val").images == 2
