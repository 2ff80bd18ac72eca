"""Images that cannot be read now, and are perhaps not damaged, end a prediction: they make no final rows."""

import errno
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bulk_predictions import COUNT, bulk, rows
from loupe.bulk import predict_units as units_module
from loupe.bulk import reading
from loupe.data.pixels import decoding
from loupe.data.table import ImageTable, make_rows
from loupe.errors import DataError, DiskError, ImageError, NotEnoughMemoryError
from loupe.export import predictor as export_predictor


def when_read(monkeypatch, images, event):
    """Call a function before an image is read, by its number."""
    encoded, count = ImageTable.encoded, 0

    def reading_one(table, i):
        nonlocal count
        count += 1
        if count == images:
            event()
        return encoded(table, i)

    monkeypatch.setattr(ImageTable, "encoded", reading_one)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Images are read in their order, in one thread, and without pauses."""
    monkeypatch.setattr(reading, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(units_module, "_small_files", lambda *_: True)


def empty(folder):
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.mark.parametrize("emptied", ["photos", "photos/b"])
def test_a_disk_that_goes_and_leaves_its_mount_point_stops_the_prediction(
    photos, stored, tmp_path, monkeypatch, emptied
):
    bulk(stored, photos, tmp_path / "whole.parquet", unit=4)
    shutil.copytree(photos, tmp_path / "kept")
    when_read(monkeypatch, 11, lambda: empty(tmp_path / emptied))
    with pytest.raises(DataError, match="photos"):
        bulk(stored, photos, tmp_path / "out.parquet", unit=4)
    for part in (tmp_path / "out.parquet.parts").glob("part-*"):
        assert pq.read_table(part)["reason"].null_count == 4
    with pytest.raises(DataError):
        bulk(stored, photos, tmp_path / "out.parquet", unit=4)
    shutil.rmtree(photos)
    (tmp_path / "kept").rename(photos)
    assert bulk(stored, photos, tmp_path / "out.parquet", unit=4).summary.damaged == 0
    assert rows(tmp_path / "out.parquet").equals(rows(tmp_path / "whole.parquet"))


@pytest.mark.parametrize("own_folder", [False, True])
def test_a_file_that_was_removed_alone_is_a_row(photos, stored, tmp_path, monkeypatch, own_folder):
    if own_folder:
        (photos / "b" / "01").mkdir()
        (photos / "b" / "01.png").rename(photos / "b" / "01" / "01.png")
    removed = photos / "b" / "01" if own_folder else photos / "b" / "01.png"
    when_read(monkeypatch, 3, lambda: shutil.rmtree(removed) if own_folder else removed.unlink())
    bulk(stored, photos, tmp_path / "out.parquet", unit=4)
    bad = [row["path"] for row in rows(tmp_path / "out.parquet").to_pylist() if row["reason"]]
    assert bad == [f"{removed}/01.png" if own_folder else str(removed)]


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_links_that_were_broken_when_they_were_listed_are_rows(stored, tmp_path):
    (tmp_path / "links").mkdir()
    for k in range(3):
        (tmp_path / "links" / f"{k}.png").symlink_to(tmp_path / "links" / f"annex-{k}")
    for given in (str(tmp_path / "links"), str(tmp_path / "links" / "*.png")):
        out = tmp_path / f"out-{given.endswith('png')}.parquet"
        assert bulk(stored, [given], out).summary.damaged == 3


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("failures", [1, 2])
def test_an_error_that_may_pass_is_tried_once_more_and_then_ends_the_prediction(
    photos, stored, tmp_path, monkeypatch, number, failures
):
    encoded, left = ImageTable.encoded, [failures]

    def failing(table, i):
        if table.paths[i].endswith("13.png") and left[0]:
            left[0] -= 1
            raise ImageError(table.paths[i], "cannot be read") from OSError(number, os.strerror(number))
        return encoded(table, i)

    monkeypatch.setattr(ImageTable, "encoded", failing)
    if failures == 2:
        with pytest.raises(DiskError, match=r"13\.png"):
            bulk(stored, photos, tmp_path / "out.parquet")
    assert bulk(stored, photos, tmp_path / "out.parquet").summary.damaged == 0


def test_the_error_of_an_image_has_that_of_the_system_as_its_cause(tmp_path):
    table = ImageTable(make_rows(n=1, path=["none.png"], label=None), classes=(), name="images", root=tmp_path)
    with pytest.raises(ImageError) as told:
        table.encoded(0)
    assert isinstance(told.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("passes", [True, False])
def test_a_lack_of_memory_is_no_damage(photos, stored, tmp_path, monkeypatch, passes):
    load, left = decoding.load, [1 if passes else COUNT]

    def starving(data, path, **how):
        if path.endswith("13.png") and left[0]:
            left[0] -= 1
            raise ImageError(path, "no memory") from MemoryError()
        return load(data, path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "load", starving)
        if not passes:
            with pytest.raises(NotEnoughMemoryError, match=r"13\.png"):
                bulk(stored, photos, tmp_path / "out.parquet")
    assert bulk(stored, photos, tmp_path / "out.parquet").summary.damaged == 0


def test_damage_of_an_exported_model_is_in_the_bytes_unless_memory_lacks(monkeypatch):
    file = export_predictor.File(0, "a.png", b"no image")
    assert export_predictor.decode_whole([file], None).damaged[0].permanent
    monkeypatch.setattr(decoding, "can_allocate", lambda _: False)
    assert not export_predictor.decode_whole([file], None).damaged[0].permanent


def test_a_file_that_was_listed_as_missing_is_a_row_of_a_list(stored, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path\na.png\nx/1.png\nx/2.png\n")
    bulk(stored, tmp_path / "list.csv", tmp_path / "out.parquet")
    assert [reason is None for reason in rows(tmp_path / "out.parquet")["reason"].to_pylist()] == [True, False, False]
