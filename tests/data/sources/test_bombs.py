"""Small tables, archives and recipes that unpack to gigabytes: one error, before they do."""

import gzip
import io
import json
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from child_processes import start
from loupe.config.overrides import load
from loupe.data.sources import archives, npz_members, parquet_dictionary, parquet_pages, rows
from loupe.data.sources import parquet as parquet_source
from loupe.data.sources.open import open_table
from loupe.data.sources.parquet_footer import read_row_groups
from loupe.errors import ConfigError, DataError
from loupe.evaluate.results import RunResults
from loupe.records import RecordError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def parquet(path, images, labels, **options):
    rows = pa.array([{"bytes": data, "path": f"{k}.png"} for k, data in enumerate(images)], IMAGE)
    pq.write_table(pa.table({"image": rows, "label": labels}), path, **options)
    return path


MEASURE = """
import json, resource, sys, time
from loupe.data.sources.open import open_table
from loupe.errors import LoupeError
began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    table, said = open_table(sys.argv[1]), None
except LoupeError as error:
    said = str(error)
print(json.dumps([time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, said]))
"""


def refused(path):
    """Error for a source, after it took less than 5 s and 512 MB."""
    child = start(MEASURE, path)
    out, _ = child.communicate(timeout=300)
    seconds, kilobytes, said = json.loads(out.splitlines()[-1])
    assert seconds < 5 and kilobytes < 500_000 and said is not None
    return said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_a_parquet_file_of_one_enormous_value_is_refused(tmp_path):
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    big = parquet(tmp_path / "big.parquet", [bytes(600_000_000), png()], ["a", "b"], **options)
    assert big.stat().st_size < 100_000
    said = refused(big)
    assert f"{big}: row group 0, column image.bytes" in said and "600 MB" in said


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
@pytest.mark.slow
def test_a_value_of_a_dictionary_counts_as_often_as_it_is_used(tmp_path):
    same = parquet(tmp_path / "same.parquet", [bytes(900_000)] * 800, ["a", "b"] * 400, compression="zstd")
    assert same.stat().st_size < 100_000
    assert str(same) in refused(same)


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_is_judged_by_its_own_header(tmp_path, monkeypatch, dictionary, version):
    monkeypatch.setattr(parquet_pages, "MAX_BYTES", 100_000)
    monkeypatch.setattr(parquet_pages, "MAX_TEXT_BYTES", 100_000)
    options = {"compression": "zstd", "use_dictionary": dictionary, "data_page_version": version}
    images = parquet(tmp_path / "images.parquet", [png(), bytes(1_000_000)], ["a", "b"], **options)
    with pytest.raises(DataError, match=r"images\.parquet: row group 0, column image\.bytes"):
        open_table(images)
    labels = parquet(tmp_path / "labels.parquet", [png()] * 2, ["a", "b" * 1_000_000], **options)
    with pytest.raises(DataError, match=r"labels\.parquet: row group 0, column label"):
        open_table(labels)
    second = parquet(
        tmp_path / "second.parquet", [png()] * 9 + [bytes(10**6)], ["a", "b"] * 5, row_group_size=5, **options
    )
    with pytest.raises(DataError, match="row group 1"):
        open_table(second)


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_the_pages_of_a_file_are_all_seen(tmp_path, dictionary, compression):
    path = parquet(
        tmp_path / "some.parquet",
        [bytes([k % 256]) * 3000 for k in range(5000)],
        ["a", "b"] * 2500,
        use_dictionary=dictionary,
        compression=compression,
        data_page_size=10_000,
        row_group_size=2000,
    )
    metadata = pq.read_metadata(path)
    with path.open("rb") as source:
        found = read_row_groups(source)
        assert [group.rows for group in found] == [2000, 2000, 1000]
        for group, row_group in enumerate(found):
            for number, chunk in enumerate(row_group.chunks):
                expected = metadata.row_group(group).column(number)
                assert (chunk.column, chunk.values) == (expected.path_in_schema, expected.num_values)
                assert chunk.is_binary == (chunk.column == "image.bytes")
                pages = list(parquet_pages.pages(source, chunk))
                assert sum(page.header + page.compressed for page in pages) == expected.total_compressed_size
                assert sum(page.header + page.uncompressed for page in pages) == expected.total_uncompressed_size


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_longest_value_of_a_dictionary_bounds_the_rows(tmp_path, compression, version):
    path, options = tmp_path / "lists.parquet", {"compression": compression, "data_page_version": version}
    table = pa.table({"text": ["x" * (k % 500) for k in range(1000)], "number": [k % 300 for k in range(1000)]})
    pq.write_table(table, path, row_group_size=600, **options)
    assert parquet_pages.check_pages(path).value == 499


def test_a_dictionary_that_cannot_be_read_counts_as_one_value():
    assert parquet_dictionary.longest_value(b"abc", 1, 700, 3) == 700
    assert parquet_dictionary.longest_value(b"abc", 3, 700, 3) == 700
    page = b"".join(len(word).to_bytes(4, "little") + word for word in (b"one", b"seventeen"))
    assert parquet_dictionary.longest_value(page, 0, len(page), 2) == 9
    assert parquet_dictionary.longest_value(page, 0, len(page), 1) == 3
    assert parquet_dictionary.longest_value(page, 0, len(page), 3) == len(page)
    assert parquet_dictionary.longest_value(page[:-1], 0, len(page), 2) == len(page)


def test_dictionaries_of_very_many_values_count_as_one_value(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "MOST_VALUES", 10)
    pq.write_table(pa.table({"text": [f"{k:03d}" for k in range(11)]}), tmp_path / "list.parquet")
    assert parquet_pages.check_pages(tmp_path / "list.parquet").value == 11 * 7


def test_rows_with_twenty_thousand_labels_are_read_in_batches_of_a_thousand(tmp_path, monkeypatch):
    batches = []
    real = parquet_source.image_rows
    monkeypatch.setattr(parquet_source, "image_rows", lambda *given: batches.append(1) or real(*given))
    labels = [f"name {k:06d}" + "x" * 50 for k in range(20_000)]
    table = open_table(parquet(tmp_path / "many.parquet", [png()] * 20_000, labels))
    assert table.classes == tuple(labels)
    assert len(batches) == 1 + 20


def add(archive, name, size):
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, io.BytesIO(bytes(size)))


def packed(path, *members):
    with gzip.open(path, "wb", compresslevel=1) as out, tarfile.open(fileobj=out, mode="w") as archive:
        for name, size in members:
            add(archive, name, size)
    return path


@pytest.mark.parametrize(
    "members",
    [
        [("data.bin", 3000)],
        [("cifar-10-batches-py/data_batch_1", 3000)],
        [("cifar-10-batches-py/batches.meta", 3000), ("cifar-10-batches-py/data_batch_1", 900)],
    ],
)
def test_an_archive_is_read_no_further_than_those_of_cifar_are_long(tmp_path, monkeypatch, members):
    monkeypatch.setattr(archives, "MAX_BYTES", 2048)
    with pytest.raises(DataError, match="unpack them and give the folder"):
        open_table(packed(tmp_path / "a.tar.gz", *members))


def test_an_archive_of_other_files_is_refused_after_the_first_ones(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        archives._Bounded, "read", lambda self, size=-1: read.append(size) or self._source.read(max(0, size))
    )
    path = packed(tmp_path / "photos.tar.gz", *[(f"cat/{k}.jpg", 2000) for k in range(2000)])
    with pytest.raises(DataError, match="unpack them and give the folder"):
        open_table(path)
    assert sum(read) < 2000 * 2000 / 10


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        ALIASES,
        "a: " + "[" * 100_000,
        "a: [" + "1," * 50_000 + "]",
        "a: " + "x" * 10_000_000,
        "a: " + "1:" * 5_000_000 + "1",
        "? " * 60_000,
        "a: &a {b: *a}",
    ],
    ids=["aliases", "depth", "values", "text", "sexagesimal", "keys", "itself"],
)
def test_a_recipe_is_no_bomb(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "[]," * 6_000_000 + "[]]", '{"a":' * 50_000])
def test_a_record_is_no_bomb(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        RunResults.read(path)
    assert caught.value.path == Path(path)


# Arrays


def npz(path, *, header=None, packed=True, **arrays):
    """A `.npz` file; with `header`, that of `x` is exchanged for it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            out = io.BytesIO()
            np.save(out, array)
            data = out.getvalue()
            if header is not None and name == "x":
                data = header + out.getvalue()[-array.nbytes :]
            archive.writestr(f"{name}.npy", data)
    return path


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text.encode()


@pytest.mark.parametrize(
    "header",
    [
        npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }\n"),
        npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 8, 7), }\n"),
        npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 8, 8), }" + " " * 50_000_000 + "\n"),
        npy_header("{'descr': '|S99999999', 'fortran_order': False, 'shape': (100000,), }\n"),
    ],
    ids=["10^12 values", "fewer values", "length", "wide values"],
)
def test_an_array_whose_header_claims_what_it_does_not_hold_is_refused(tmp_path, header):
    path = npz(tmp_path / "x.npz", header=header, x=np.zeros((6, 8, 8), np.uint8), y=np.arange(6) % 2)
    with pytest.raises(DataError, match=r"x\.npz: array 'x'"):
        open_table(path)


def test_an_array_that_unpacks_to_far_more_than_its_file_is_refused(tmp_path, monkeypatch):
    images, labels = np.zeros((1000, 64, 64), np.uint8), np.arange(1000) % 2
    path = npz(tmp_path / "x.npz", x=images, y=labels)
    assert len(open_table(path)) == 1000
    monkeypatch.setattr(npz_members, "USUAL_BYTES", 10**6)
    with pytest.raises(DataError, match=r"array 'x' unpacks to 4 MB"):
        open_table(path)
    assert len(open_table(npz(path, packed=False, x=images, y=labels))) == 1000
    noise = np.random.default_rng(0).integers(0, 256, (300, 64, 64), dtype=np.uint8)
    assert len(open_table(npz(path, x=noise, y=labels[:300]))) == 300


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_a_deflated_array_of_a_gigabyte_is_refused(tmp_path):
    path, packer = tmp_path / "x.npz", zlib.compressobj(9, zlib.DEFLATED, -15)
    head = npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000, 1000, 1000), }\n")
    block = bytes(10**7)
    crc, parts = zlib.crc32(head), [packer.compress(head)]
    parts += [packer.compress(block) for _ in range(100)]
    data = b"".join([*parts, packer.flush()])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("y.npy", npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }\n"))
        archive.writestr("x.npy", data)
        member = archive.getinfo("x.npy")
        member.compress_type, member.file_size, member.CRC = zipfile.ZIP_DEFLATED, len(head) + 10**9, crc
    assert path.stat().st_size < 1_100_000
    assert "array 'x'" in refused(path)


def test_a_directory_of_many_names_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(DataError, match="bytes of names"):
        open_table(path)


# Archives of CIFAR


def cifar(path, content, *, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w") as archive:
        for name in ("batches.meta", *(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size, member.type = len(content), kind
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\2}r\xff\xff\xff\x7f.",
        b"\x80\2}" + b"]0" * 1_000_000 + b".",
        b"\x80\2}(K\1" + b"\x85" * 200_000 + b"Nu.",
        b"\x80\2B\xff\xff\xff\x7fabc.",
        b"\x80\2\x8b\xff\xff\xff\x7f1.",
    ],
    ids=["place in memory", "steps", "tuples", "text", "number"],
)
def test_a_pickle_is_no_bomb(tmp_path, content):
    path = cifar(tmp_path / "a.tar", content)
    with pytest.raises(DataError, match=r"a\.tar"):
        open_table(path)


def test_labels_that_are_lists_of_each_other_are_not_unfolded():
    nested = [0]
    for _ in range(40):
        nested = [nested] * 10
    batch = {b"data": SimpleNamespace(array=lambda: np.zeros((10, 3072), np.uint8)), b"labels": nested}
    with pytest.raises(ValueError, match="whole numbers"):
        archives._batch(batch, b"labels")


def test_a_file_of_holes_is_refused(tmp_path):
    """GNU's sparse files: a header claims a terabyte, of which the archive holds nothing."""
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + bytes(10240))
    with pytest.raises(DataError, match=r"a\.tar"):
        open_table(path)


# Lists


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(rows, "MAX_LINE", 1000)
    path = tmp_path / name
    first = "path,label\n" if name == "a.csv" else '{"path": "a.png", "label": "a"}\n'
    path.write_text(first + "[" * 2000)
    with pytest.raises(DataError, match=r"line [12]: it has more than"):
        open_table(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "a," * 200_000),
        ("a.jsonl", json.dumps({f"name {k}": k for k in range(20_000)})),
        ("b.jsonl", "[" * 1_000_000),
    ],
)
def test_a_list_of_very_many_columns_is_refused(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=rf"{name}: line 1"):
        open_table(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_large_line_is_refused_within_the_limits(tmp_path, name):
    path = tmp_path / name
    with path.open("w") as file:
        file.write("path,label\n" if name == "a.csv" else '{"path": "a.png", "label": [')
        for _ in range(100):
            file.write("[]," * 3_000_000)
    assert "characters" in refused(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_lines_of_nested_lists_are_kept_as_text(tmp_path):
    path = tmp_path / "a.jsonl"
    line = '{"path": "a.png", "label": [' + "[]," * 2_000_000 + "0]}\n"
    path.write_text(line * 3 + "{")
    assert "line 4" in refused(path)
