"""Tars in the WebDataset layout: samples, labels, splits, and tars that are damaged or not to be trusted."""

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from builders import picture
from loupe.data.dataset import is_gone, open_dataset
from loupe.data.hashing import content_hashes
from loupe.data.pixels.store import EncodedImages, open_store
from loupe.data.shards import LocalShard
from loupe.data.sources.open import open_table
from loupe.data.sources.path_patterns import expanded, name_of
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.tar_index import indices
from loupe.data.sources.tar_members import TEXTS
from loupe.errors import DataError, ImageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tar(file: Path, members, *, kind=tarfile.PAX_FORMAT, mode="w") -> Path:
    """Tar of (name, content) pairs, where the content is bytes, text, or a value for JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode, format=kind) as archive:
        for name, content in members:
            data = (
                content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
            )
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def classed(count: int, first: int = 0, labels=("cat", "dog")):
    for number in range(first, first + count):
        yield f"{number:04}.png", picture(number)
        yield f"{number:04}.cls", labels[number % len(labels)]


def labels(table) -> list[str | None]:
    return [table.classes[k] if k >= 0 else None for k in table.labels]


def test_a_tar_is_a_table_whose_images_stay_in_it(tmp_path):
    table = open_table(tar(tmp_path / "pets.tar", classed(4)))
    assert (table.name, table.classes) == ("pets", ("cat", "dog"))
    assert labels(table) == ["cat", "dog", "cat", "dog"]
    assert table.paths == tuple(f"pets.tar/{i:04}.png" for i in range(4))
    assert [table.encoded(i) for i in range(4)] == [picture(i) for i in range(4)]
    assert table.file(0) is None
    assert content_hashes(table) == tuple(sha256(picture(i)).hexdigest() for i in range(4))
    assert content_hashes(table, verify=True) == content_hashes(table)
    assert table.shards is not None
    assert table.shards.shard_N.tolist() == [0] * 4


def test_selected_images_keep_their_places(tmp_path):
    table = open_table(tar(tmp_path / "pets.tar", classed(6))).select([5, 1])
    assert [table.encoded(i) for i in range(2)] == [picture(5), picture(1)]
    assert content_hashes(table) == tuple(sha256(picture(i)).hexdigest() for i in (5, 1))
    with pytest.raises(IndexError):
        table.encoded(2)


def test_a_folder_of_tars_has_the_splits_of_their_names(tmp_path):
    tar(tmp_path / "pets" / "train-0.tar", classed(4))
    tar(tmp_path / "pets" / "train-1.tar", classed(4, 4))
    tar(tmp_path / "pets" / "test-0.tar", classed(2, 8))
    table = open_table(tmp_path / "pets")
    assert table.splits == ["test"] * 2 + ["train"] * 8
    assert table.encoded(9) == picture(7)
    assert table.shards is not None
    assert table.shards.shard_N.tolist() == [0] * 2 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("pattern", ["p-{000..002}.tar", "p-*.tar", "p-{000,001,002}.tar"])
def test_ranges_lists_and_wildcards_name_shards(tmp_path, pattern):
    for number in range(3):
        tar(tmp_path / f"p-{number:03}.tar", classed(2, 2 * number))
    dataset = open_dataset(str(tmp_path / pattern))
    assert (len(dataset.table), dataset.name) == (6, "p")
    assert dataset.source is not None
    assert not is_gone(dataset.source)
    assert is_gone(str(tmp_path / "q-*.tar"))


def test_a_missing_shard_of_a_range_is_named(tmp_path):
    tar(tmp_path / "p-0.tar", classed(2))
    with pytest.raises(DataError, match=r"p-1\.tar"):
        open_table(str(tmp_path / "p-{0..1}.tar"))


def test_ranges_keep_their_digits_and_are_bounded():
    assert expanded("a-{08..11}-{x,y}.tar")[:3] == ["a-08-x.tar", "a-08-y.tar", "a-09-x.tar"]
    assert name_of("/data/photos-{000..099}.tar") == "photos"
    assert name_of("/data/*.tar") == "data"
    for wrong in ("{9..1}.tar", "{0..99999999}.tar"):
        with pytest.raises(DataError):
            expanded(wrong)


def test_labels_of_json_with_splits_and_groups(tmp_path):
    rows = [("cat", "train", "a"), ("dog", "train", "b"), ("cat", "val", "a"), ("dog", "val", "a")]
    members = [
        member
        for i, (label, split, patient) in enumerate(rows)
        for member in [
            (f"{i}.png", picture(i)),
            (f"{i}.json", {"label": label, "split": split, "patient": patient, "boxes": [1]}),
        ]
    ]
    table = open_table(tar(tmp_path / "a.tar", members))
    assert labels(table) == ["cat", "dog", "cat", "dog"]
    assert table.splits == ["train", "train", "val", "val"]
    assert table.groups == ["a", "b", "a", "a"]


def test_of_long_texts_what_can_be_a_label_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("loupe.data.sources.tar_index._BATCH_ROWS", 2)
    long = {"caption": "x" * 900_000, "boxes": [[1.5] * 4] * 2000, "n": 1.50, "split": "train"}
    members = [
        member
        for i in range(5)
        for member in [
            (f"{i}.png", picture(i)),
            (f"{i}.json", {**long, "label": ("cat", "dog")[i % 2]}),
            (f"{i}.txt", "x" * 100_000),
        ]
    ]
    file = tar(tmp_path / "a.tar", members)
    table = open_table(file)
    assert (labels(table), table.splits) == (["cat", "dog", "cat", "dog", "cat"], ["train"] * 5)
    assert labels(open_table(file, ReadOptions.of("label=n"))) == ["1.5"] * 5
    (full,) = indices([LocalShard.of(file)], None)
    (bare,) = indices([LocalShard.of(file)], None, texts=False)
    assert full.rows.nbytes < 5 * 1000
    assert full.rows.drop_columns(TEXTS).equals(bare.rows.drop_columns(TEXTS))
    assert not any(any(bare.rows[name].to_pylist()) for name in TEXTS)


def test_a_field_or_an_extension_can_be_chosen(tmp_path):
    members = [("0.png", picture(0)), ("0.json", {"dx": "x", "n": 3}), ("1.png", picture(1)), ("1.json", {"dx": "y"})]
    file = tar(tmp_path / "a.tar", members)
    assert labels(open_table(file, ReadOptions.of("label=dx"))) == ["x", "y"]
    with pytest.raises(DataError):
        open_table(file)
    captions = [("0.png", picture(0)), ("0.txt", "x"), ("1.png", picture(1)), ("1.txt", "y")]
    assert labels(open_table(tar(tmp_path / "b.tar", captions), ReadOptions.of("label=txt"))) == ["x", "y"]


def test_labels_of_folders_in_the_keys(tmp_path):
    names = ["./train/cat/1.png", "./train/dog/1.png", "./test/cat/2.png", "./test/dog/2.png"]
    table = open_table(tar(tmp_path / "a.tar", [(name, picture(i)) for i, name in enumerate(names)]))
    assert labels(table) == ["cat", "dog", "cat", "dog"]
    assert table.splits == ["train", "train", "test", "test"]
    with pytest.raises(DataError, match="no labels"):
        open_table(tar(tmp_path / "b.tar", [("1.png", picture(0))]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "cat\ndog\n"),
        ("classnames.txt", "cat\r\ndog"),
        ("classes.json", '["cat", "dog"]'),
        ("labels.json", '{"0": "cat", "1": "dog"}'),
        ("class_to_idx.json", '{"dog": 1, "cat": 0}'),
    ],
)
def test_numbers_get_the_names_of_a_file_beside(tmp_path, name, content):
    tar(tmp_path / "a.tar", classed(4, labels=("0", "1")))
    (tmp_path / name).write_text(content)
    assert labels(open_table(tmp_path / "a.tar")) == ["cat", "dog", "cat", "dog"]


def test_numbers_without_names_are_the_classes_and_minus_one_is_unlabelled(tmp_path):
    table = open_table(tar(tmp_path / "a.tar", classed(6, labels=("10", "9", "-1"))))
    assert table.classes == ("9", "10")
    assert labels(table) == ["10", "9", None] * 2


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"0": "cat", "5": "dog"}', '["cat"]'])
def test_a_file_of_names_that_does_not_fit_is_refused(tmp_path, content):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match=r"classes\.json"):
        open_table(tar(tmp_path / "a.tar", classed(4, labels=("0", "1"))))


def test_keys_end_at_the_first_dot_and_extensions_ignore_case(tmp_path):
    members = [("a.b/1.v2.PNG", picture(1)), ("a.b/1.cls", "x"), ("a.b/2.PNG", picture(2)), ("a.b/2.cls", "y")]
    table = open_table(tar(tmp_path / "a.tar", members))
    assert table.paths == ("a.tar/a.b/1.v2.png", "a.tar/a.b/2.png")
    assert labels(table) == ["x", "y"]


def test_of_several_images_one_has_to_be_chosen(tmp_path):
    members = [("1.png", picture(1)), ("1.seg.png", picture(9)), ("1.cls", "x"), ("2.png", picture(2)), ("2.cls", "y")]
    assert open_table(tar(tmp_path / "a.tar", members)).encoded(0) == picture(1)
    both = [("1.png", picture(1)), ("1.jpg", picture(9, "JPEG")), ("1.cls", "x")]
    with pytest.raises(DataError, match="path="):
        open_table(tar(tmp_path / "b.tar", both))
    assert open_table(tmp_path / "b.tar", ReadOptions.of("path=jpg")).encoded(0) == picture(9, "JPEG")


def test_parts_of_a_sample_that_stand_apart_are_joined_and_a_repeated_key_is_another_sample(tmp_path):
    members = [("1.png", picture(1)), ("2.png", picture(2)), ("1.cls", "x"), ("2.cls", "y")]
    assert labels(open_table(tar(tmp_path / "a.tar", members))) == ["x", "y"]
    table = open_table(tar(tmp_path / "b.tar", [*classed(2), *classed(2)]))
    assert labels(table) == ["cat", "dog"] * 2
    assert len(set(table.paths)) == 4


def test_two_members_of_one_extension_in_a_sample_are_refused(tmp_path):
    with pytest.raises(DataError, match="two members"):
        open_table(tar(tmp_path / "a.tar", [("1.png", picture(1)), ("1.png", picture(2)), ("1.cls", "x")]))


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_of_both_formats(tmp_path, kind):
    folder = "/".join(["a" * 90] * 3)
    members = [
        (f"{folder}/ä{i}.{ext}", data) for i in range(2) for ext, data in [("png", picture(i)), ("cls", f"c{i}")]
    ]
    table = open_table(tar(tmp_path / "a.tar", members, kind=kind))
    assert table.paths[0] == f"a.tar/{folder}/ä0.png"
    assert table.encoded(1) == picture(1)


def test_links_devices_and_paths_that_lead_out_are_never_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(200))
    file = tar(tmp_path / "in" / "a.tar", [("../secret.png", picture(1)), ("../secret.cls", "x"), *classed(2)])
    with tarfile.open(file, "a") as archive:
        for name, kind in [("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../secret.png"
            archive.addfile(info)
    table = open_table(file)
    assert len(table) == 3
    assert table.encoded(0) == picture(1)
    assert "1 device, 2 links" in " ".join(table.notes)
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "in", "secret.png"}


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_are_refused_with_the_remedy(tmp_path, mode):
    file = tar(tmp_path / "a.tar", classed(2), mode=mode)
    with pytest.raises(DataError):
        open_table(file)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_tar_is_refused_at_any_length(tmp_path, keep):
    file = tar(tmp_path / "a.tar", classed(40))
    file.write_bytes(file.read_bytes()[: int(40 * 2 * 1024 * keep)])
    with pytest.raises(DataError, match="truncated"):
        open_table(file)


def test_a_tar_cut_between_two_members_or_damaged_in_a_header_is_refused(tmp_path):
    file = tar(tmp_path / "a.tar", classed(4))
    data = file.read_bytes()
    file.write_bytes(data[: 4 * 1024])
    with pytest.raises(DataError, match="end mark"):
        open_table(file)
    file.write_bytes(data[: 4 * 1024] + b"\xff" * 512 + data[4 * 1024 + 512 :])
    with pytest.raises(DataError, match="no header"):
        open_table(file)


def test_a_header_that_claims_gigabytes_is_refused_without_reading_them(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match="header"):
        open_table(tmp_path / "a.tar")


def test_a_size_that_leads_back_and_headers_without_end_are_refused(tmp_path):
    info = tarfile.TarInfo("a.png")
    info.size = -1024
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(DataError, match="damaged"):
        open_table(tmp_path / "a.tar")
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "b.tar").write_bytes((long.tobuf() + b"x" + bytes(511)) * 2000 + bytes(1024))
    with pytest.raises(DataError, match="damaged"):
        open_table(tmp_path / "b.tar")


def test_samples_without_an_image_are_counted_and_images_that_cannot_be_read_are_reported(tmp_path):
    members = [*classed(2), ("x.cls", "cat"), ("y.dcm", b"DICM"), ("y.cls", "cat")]
    table = open_table(tar(tmp_path / "a.tar", members))
    assert len(table) == 2
    assert "1 sample without an image" in " ".join(table.notes)
    assert [(entry.format, entry.paths) for entry in table.unread] == [("DICOM", ("a.tar/y.dcm",))]


def test_a_damaged_image_is_damaged_and_not_the_tar(tmp_path):
    table = open_table(tar(tmp_path / "a.tar", [*classed(2), ("z.png", picture(1)[:40]), ("z.cls", "cat")]))
    images = EncodedImages(table, 8, "crop", "bilinear")
    with pytest.raises(DataError, match=r"a\.tar/z\.png"):
        open_store(images, content_hashes(table), budget_bytes=2**20, cache=None)


def test_pixels_are_decoded_from_the_tar_where_they_do_not_fit(tmp_path):
    table = open_table(tar(tmp_path / "a.tar", classed(6)))
    images, content = EncodedImages(table, 8, "crop", "bilinear"), content_hashes(table)
    kept = open_store(images, content, budget_bytes=2**20, cache=None)
    decoded = open_store(images, content, budget_bytes=0, cache=None)
    rows = np.array([5, 0, 3])
    np.testing.assert_array_equal(decoded.read(rows), kept.read(rows))
    assert decoded.read(rows)[:, 0, 0, 0].tolist() == [5, 0, 3]
    np.testing.assert_array_equal(decoded.keeping(np.array([0, 4])).read(rows), kept.read(rows))


def test_an_index_is_kept_and_a_changed_tar_is_read_again(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("loupe.data.shards.SETTLED_NS", 0)
    file = tar(tmp_path / "a.tar", classed(4))
    open_table(file)
    (entry,) = (cache / "indices").glob("*.parquet")
    monkeypatch.setattr("loupe.data.sources.tar_index.read_index", lambda *_: pytest.fail("read again"))
    assert len(open_table(file)) == 4
    monkeypatch.undo()
    monkeypatch.setenv("LOUPE_CACHE", str(cache))
    tar(file, classed(6))
    table = open_table(file)
    assert len(table) == 6
    entry.write_bytes(entry.read_bytes()[:-9])
    assert len(open_table(file)) == 6
    tar(file, classed(2))
    with pytest.raises(DataError, match="changed"):
        table.encoded(0)


def test_an_image_too_large_for_a_file_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("loupe.data.table.MAX_FILE_BYTES", 50)
    monkeypatch.setattr("loupe.data.sources.tar_index.MAX_FILE_BYTES", 50)
    table = open_table(tar(tmp_path / "a.tar", classed(2)))
    with pytest.raises(ImageError, match="exceed"):
        table.encoded(0)
    assert len(set(content_hashes(table))) == 2


def test_no_more_shards_are_open_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("loupe.data.shards.MOST_OPEN", 2)
    for number in range(5):
        tar(tmp_path / f"{number}.tar", classed(2, 2 * number))
    table = open_table(tmp_path)
    assert [table.encoded(i) for i in (0, 9, 4, 2, 7, 0)] == [picture(i) for i in (0, 9, 4, 2, 7, 0)]
    assert table.shards is not None
    assert len(table.shards.opened._open) == 2
