"""Each image has one row, whatever stops the prediction, and the rows are those of `loupe predict`."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from bulk_predictions import BATCH, COUNT, UNIT, bulk, names, rows, settings_for, stored_model
from loupe.bulk import parts as parts_module
from loupe.bulk import predict as predict_module
from loupe.bulk import predict_units as units_module
from loupe.bulk.models import bulk_model
from loupe.bulk.opening import source_of
from loupe.bulk.output import SUMMARY_KEY, Output
from loupe.bulk.parts import part_name
from loupe.bulk.plan import asked_of, make_plan, open_plan
from loupe.bulk.predict_units import predict_unit, predict_units
from loupe.data.sources.folders import from_paths
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import ConfigError, DataError, DiskError, DivergedError, LoupeError, RunStateError
from loupe.records import RecordError
from loupe.runs.classify import label


class StopError(Exception):
    """Stop in the place of a kill."""


def stopping_after(monkeypatch, parts):
    """Stop once some parts are written."""
    write, count = predict_module.write_part, 0

    def writing(*arguments):
        nonlocal count
        if count == parts:
            raise StopError
        count += 1
        return write(*arguments)

    monkeypatch.setattr(predict_module, "write_part", writing)


def test_rows_are_those_of_loupe_predict_in_its_order(photos, stored, tmp_path):
    result = bulk(stored, photos, tmp_path / "out.parquet", top=3, threshold=0.35)
    expected = label(stored.predictions(from_paths([str(photos)])), top=3, threshold=0.35)
    table = rows(tmp_path / "out.parquet")
    assert table["path"].to_pylist() == list(expected.predictions.path)
    assert table["content"].to_pylist() == list(expected.predictions.content)
    assert table["label"].to_pylist() == list(expected.label)
    assert result.summary.labels == {name: expected.label.count(name) for name in sorted({*expected.label})}
    for k, name in enumerate("abc"):
        found_N = table[f"probability:{name}"].to_numpy()
        np.testing.assert_allclose(found_N, expected.probability_NK[:, k], atol=1e-6)
    assert table["label_2"].to_pylist() == ["abc"[k] for k in expected.order_NT[:, 1]]
    sorted_NK = -np.sort(-expected.probability_NK, axis=1)
    np.testing.assert_allclose(table["probability_3"].to_numpy(), sorted_NK[:, 2], atol=1e-6)
    assert table["reason"].null_count == COUNT
    assert (result.predicted, result.summary.damaged) == (COUNT, 0)
    assert names(tmp_path) == ["out.parquet", "photos"]


def test_damaged_images_are_rows_with_a_reason(photos, stored, tmp_path):
    for name in ("a/00.png", "b/07.png"):
        (photos / name).write_bytes(b"no image")
    for k in range(2, COUNT, 3):
        (photos / "c" / f"{k:02}.png").write_bytes(b"")  # fills a unit, with others
    result = bulk(stored, photos, tmp_path / "out.parquet", top=2)
    table = rows(tmp_path / "out.parquet").to_pylist()
    damaged = [row for row in table if row["reason"] is not None]
    assert result.summary.damaged == len(damaged) == 9
    for row in damaged:
        empty = {key: row[key] for key in row if key not in ("path", "content", "reason")}
        assert set(empty.values()) == {None}
        assert row["content"] is not None
    assert [row["path"] for row in table] == list(from_paths([str(photos)]).paths)


def test_only_damaged_images_are_rows_too(photos, stored, tmp_path):
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no image")
    assert bulk(stored, photos, tmp_path / "out.parquet").summary.damaged == COUNT
    assert rows(tmp_path / "out.parquet")["label"].null_count == COUNT


def test_the_rows_of_a_list_keep_its_order_its_identifiers_and_its_missing_files(photos, stored, tmp_path):
    names = ["b/01.png", "a/00.png", "none.png", "a/00.png"]
    file = photos / "list.csv"
    file.write_text("path,image_id\n" + "".join(f"{name},{k}\n" for k, name in enumerate(names)))
    bulk(stored, file, tmp_path / "out.parquet")
    table = rows(tmp_path / "out.parquet")
    assert table.column_names[:3] == ["image_id", "path", "label"]
    assert (table["path"].to_pylist(), table["image_id"].to_pylist()) == (names, list("0123"))
    assert [reason is None for reason in table["reason"].to_pylist()] == [True, True, False, True]
    assert table["content"][2].as_py() is None


def test_a_folder_of_parts_is_complete_once_its_summary_is_there(photos, stored, tmp_path):
    bulk(stored, photos, tmp_path / "out.parquet")
    result = bulk(stored, photos, tmp_path / "out", folder=True)
    assert names(tmp_path / "out") == ["_predictions.json", *map(part_name, range(3))]
    assert rows(tmp_path / "out").equals(rows(tmp_path / "out.parquet"))
    assert json.loads((tmp_path / "out" / "_predictions.json").read_text())["labels"] == result.summary.labels
    assert bulk(stored, photos, tmp_path / "out", folder=True).predicted == 0
    (tmp_path / "out" / part_name(1)).unlink()
    with pytest.raises(RunStateError, match=part_name(1)):
        bulk(stored, photos, tmp_path / "out", folder=True)


def test_the_metadata_of_the_file_say_what_it_is_of(photos, stored, tmp_path):
    bulk(stored, photos, tmp_path / "out.parquet", threshold=0.4)
    found = json.loads(pq.read_metadata(tmp_path / "out.parquet").metadata[SUMMARY_KEY])
    settings = found["plan"]["asked"]["settings"]
    assert (settings["classes"], settings["threshold"]) == (["a", "b", "c"], 0.4)
    assert settings["model"] == bulk_model(stored).hash
    assert found["plan"]["images"] == COUNT


def test_thousands_of_classes_are_one_column_of_lists(photos, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "MOST_COLUMNS", 2)
    (photos / "a" / "03.png").write_bytes(b"no image")
    bulk(stored, photos, tmp_path / "out.parquet")
    table = rows(tmp_path / "out.parquet")
    lists = [row for row in table["probabilities"].to_pylist() if row is not None]
    np.testing.assert_allclose(np.sum(lists, axis=1), 1, atol=1e-6)
    assert table["probabilities"].null_count == 1
    np.testing.assert_array_equal(np.max(lists, axis=1).astype(np.float32), table["probability"].drop_null().to_numpy())


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_what_was_written_is_never_decoded_again(photos, stored, tmp_path, monkeypatch, decodes, parts):
    bulk(stored, photos, tmp_path / "whole.parquet")
    with monkeypatch.context() as patch:
        stopping_after(patch, parts)
        with pytest.raises(StopError):
            bulk(stored, photos, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    kept = {row for file in tmp_path.glob("out.parquet.parts/part*") for row in pq.read_table(file)["path"].to_pylist()}
    assert len(kept) == parts * UNIT
    decodes.clear()
    result = bulk(stored, photos, tmp_path / "out.parquet")
    assert set(decodes) == set(from_paths([str(photos)]).paths) - kept
    assert set(decodes.values()) == {1}
    assert result.predicted == COUNT - len(kept)
    assert rows(tmp_path / "out.parquet").equals(rows(tmp_path / "whole.parquet"))
    assert names(tmp_path) == ["out.parquet", "photos", "whole.parquet"]


def damage_end(file):
    file.write_bytes(file.read_bytes()[:-20])


def damage_page(file):
    data = bytearray(file.read_bytes())
    data[60] ^= 0xFF
    file.write_bytes(data)


def empty(file):
    file.write_bytes(b"")


def take_other(file):
    file.write_bytes(file.with_name(part_name(0)).read_bytes())


@pytest.mark.parametrize("damage", [damage_end, damage_page, empty, take_other])
@pytest.mark.parametrize("stopped", ["while predicting", "while joining"])
def test_a_damaged_part_is_computed_again(photos, stored, tmp_path, monkeypatch, decodes, damage, stopped):
    bulk(stored, photos, tmp_path / "whole.parquet")
    with monkeypatch.context() as patch:
        if stopped == "while predicting":
            stopping_after(patch, 2)
        else:
            patch.setattr(Output, "finish", lambda *_: (_ for _ in ()).throw(StopError))
        with pytest.raises(StopError):
            bulk(stored, photos, tmp_path / "out.parquet")
    damage(tmp_path / "out.parquet.parts" / part_name(1))
    decodes.clear()
    bulk(stored, photos, tmp_path / "out.parquet")
    assert len(decodes) == (2 * UNIT - 1 if stopped == "while predicting" else UNIT)
    assert rows(tmp_path / "out.parquet").equals(rows(tmp_path / "whole.parquet"))


def test_a_result_that_is_there_is_not_computed_again_nor_overwritten(photos, stored, tmp_path, decodes, caplog):
    caplog.set_level("INFO", "loupe")
    bulk(stored, photos, tmp_path / "out.parquet")
    before = (tmp_path / "out.parquet").read_bytes()
    decodes.clear()
    again = bulk(stored, photos, tmp_path / "out.parquet")
    assert (again.predicted, again.summary.plan.images, len(decodes)) == (0, COUNT, 0)
    assert f"{COUNT} images, as listed at {again.summary.plan.listed}" in caplog.text
    for change in ({"top": 2}, {"threshold": 0.5}, {"tta": "flip"}, {"model": "other"}):
        with pytest.raises(RunStateError, match=next(iter(change))):
            bulk(stored, photos, tmp_path / "out.parquet", **change)
    with pytest.raises(RunStateError, match="source"):
        bulk(stored, photos / "a", tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == before


def test_a_kill_between_the_file_and_the_end_of_its_parts_leaves_nothing_to_do(photos, stored, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Output, "remove_plan", lambda *_: (_ for _ in ()).throw(StopError))
        with pytest.raises(StopError):
            bulk(stored, photos, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet.parts" / part_name(0)).is_file()
    assert bulk(stored, photos, tmp_path / "out.parquet").predicted == 0
    assert names(tmp_path) == ["out.parquet", "photos"]


def test_what_was_begun_with_other_settings_is_not_gone_on_with(photos, stored, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stopping_after(patch, 1)
        with pytest.raises(StopError):
            bulk(stored, photos, tmp_path / "out.parquet")
    for change in ({"top": 2}, {"threshold": 0.5}, {"tta": "flip"}):
        with pytest.raises(RunStateError, match=next(iter(change))):
            bulk(stored, photos, tmp_path / "out.parquet", **change)
    with pytest.raises(RunStateError, match="--columns"):
        bulk(stored, photos, tmp_path / "out.parquet", options=ReadOptions.of(follow_links=True))
    bulk(stored, photos, tmp_path / "out.parquet")


def test_the_plan_is_the_list_of_images_whatever_becomes_of_the_folder(photos, stored, tmp_path, monkeypatch):
    names = from_paths([str(photos)]).paths
    with monkeypatch.context() as patch:
        stopping_after(patch, 1)
        with pytest.raises(StopError):
            bulk(stored, photos, tmp_path / "out.parquet")
    (photos / "a" / "new.png").write_bytes((photos / "a" / "00.png").read_bytes())
    (photos / "c" / "20.png").unlink()
    bulk(stored, photos, tmp_path / "out.parquet")
    table = rows(tmp_path / "out.parquet")
    assert tuple(table["path"].to_pylist()) == names
    assert [row["path"] for row in table.to_pylist() if row["reason"]] == [str(photos / "c" / "20.png")]


def test_a_source_that_is_gone_stops_the_prediction_and_makes_no_rows(photos, stored, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stopping_after(patch, 1)
        with pytest.raises(StopError):
            bulk(stored, photos, tmp_path / "out.parquet")
    photos.rename(tmp_path / "unmounted")
    with pytest.raises(DataError, match="photos is gone"):
        bulk(stored, photos, tmp_path / "out.parquet")
    (tmp_path / "unmounted").rename(photos)
    assert bulk(stored, photos, tmp_path / "out.parquet").summary.damaged == 0


def test_another_process_that_writes_the_same_is_an_error(photos, stored, tmp_path):
    (tmp_path / "out.parquet.parts").mkdir()
    with FileLock(tmp_path / "out.parquet.parts" / "lock"), pytest.raises(RunStateError, match="another process"):
        bulk(stored, photos, tmp_path / "out.parquet")


@pytest.mark.parametrize("other", ["text", "parquet", "folder", "parts"])
def test_other_files_are_never_overwritten(photos, stored, tmp_path, other):
    to = tmp_path / ("out" if other == "folder" else "out.parquet")
    if other == "folder":
        to.mkdir()
        (to / "notes.txt").write_text("mine")
    elif other == "parts":
        (tmp_path / "out.parquet.parts").write_text("mine")
    elif other == "text":
        to.write_text("mine")
    else:
        pq.write_table(pa.table({"path": ["mine"]}), to)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="--to"):
        bulk(stored, photos, to, folder=other == "folder")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_cannot_be_listed_leaves_nothing_behind(photos, stored, tmp_path):
    with pytest.raises(DataError):
        bulk(stored, [str(photos), str(tmp_path / "missing")], tmp_path / "out.parquet")
    with pytest.raises(DataError):
        bulk(stored, [str(tmp_path / "missing")], tmp_path / "out", folder=True)
    assert names(tmp_path) == ["photos"]


@pytest.mark.parametrize("number", [28, 13])  # ENOSPC, EACCES
def test_a_disk_that_cannot_be_written_is_an_error_and_what_is_written_stays(
    photos, stored, tmp_path, monkeypatch, number
):
    with monkeypatch.context() as patch:
        write, calls = parts_module.pq.write_table, []

        def failing(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 2:
                raise OSError(number, os.strerror(number))
            return write(*arguments, **options)

        patch.setattr(parts_module.pq, "write_table", failing)
        with pytest.raises(DiskError, match="same command again"):
            bulk(stored, photos, tmp_path / "out.parquet")
    assert bulk(stored, photos, tmp_path / "out.parquet").predicted == COUNT - UNIT


def test_a_network_without_finite_output_stops_the_prediction(photos, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "loupe.bulk.models.StoredModel.run",
        lambda self, pixels: (np.full((len(x), 3), np.nan, np.float32) for x in pixels),
    )
    with pytest.raises(DivergedError):
        bulk(stored, photos, tmp_path / "out.parquet")


def plan_of(photos, stored, folder, unit=UNIT):
    options = ReadOptions.of()
    source = source_of([str(photos)], None, options)
    return make_plan(folder, source, asked_of(source, options, settings_for(stored)), unit_images=unit)


def test_a_unit_alone_has_the_rows_that_it_has_among_others(photos, stored, tmp_path):
    plan, model = plan_of(photos, stored, tmp_path), bulk_model(stored)
    together = [table for _, table in predict_units(plan, range(3), model)]
    backwards = [table for _, table in predict_units(plan, [2, 1, 0], model)]
    for number, table in enumerate(together):
        assert table.equals(predict_unit(plan, number, model))
        assert table.equals(backwards[2 - number])
        assert len(table) == plan.record.unit_size(number)


def test_the_next_unit_is_decoded_while_this_one_is_predicted(photos, stored, tmp_path, monkeypatch, decodes):
    """Batches are asked for across the border of a unit: when a unit is complete, images of the next are decoded."""
    monkeypatch.setattr(units_module, "_small_files", lambda *_: False)
    monkeypatch.setattr(units_module, "worker_count", lambda: 2)
    model = bulk_model(stored)
    model.chunk_images = BATCH
    plan = plan_of(photos, stored, tmp_path)
    units = predict_units(plan, range(3), model)
    next(units)
    assert sum(decodes.values()) > UNIT
    units.close()


def test_a_plan_that_was_changed_is_refused(photos, stored, tmp_path):
    plan = plan_of(photos, stored, tmp_path)
    assert [len(unit) for unit in open_plan(tmp_path).units()] == [8, 8, 7]
    images, record = tmp_path / "plan.arrow", tmp_path / "plan.json"
    data, text = images.read_bytes(), record.read_text()
    other = tmp_path / "other"
    other.mkdir()
    plan_of(photos / "a", stored, other, unit=3)
    for wrong in (data[:-30], b"", (other / "plan.arrow").read_bytes()):
        images.write_bytes(wrong)
        with pytest.raises(RecordError):
            list(open_plan(tmp_path).units())
    images.unlink()
    with pytest.raises(RecordError):
        list(open_plan(tmp_path).units())
    images.write_bytes(data)
    record.write_text(text.replace(plan.record.listing, "0" * 64))
    with pytest.raises(LoupeError):
        open_plan(tmp_path)


def test_a_model_of_other_classes_is_another_model(photos, stored, tmp_path_factory):
    other = stored_model(tmp_path_factory.mktemp("other"), ("a", "b", "d"))
    assert bulk_model(other).hash != bulk_model(stored).hash
