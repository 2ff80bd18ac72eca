"""Files from strangers: odd texts, numbers and names, damaged bytes, and folders that cannot be read."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import damaged_files
from builders import picture
from child_processes import start
from damaged_files import OwnProcess
from loupe.config.recipe import SplitSpec
from loupe.data.sources import folders
from loupe.data.sources.inference_inputs import table_of
from loupe.data.sources.inference_list import open_inference_list
from loupe.data.sources.open import open_table
from loupe.data.sources.read_options import ReadOptions
from loupe.data.splits import split as splits
from loupe.data.splits import split_file
from loupe.data.table import os_name, text_name
from loupe.errors import DataError, ImageError, LoupeError

IMAGES = [picture(15 * k) for k in range(12)]
NAMES = [f"{k}.png" for k in range(12)]
POSIX = pytest.mark.skipif(os.name == "nt", reason="names, links and rights of POSIX")


def raw_text(values: list[bytes]) -> pa.Array:
    """Column of text whose bytes are not UTF-8, as a program that does not look at them writes it."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def either(one: object, other: object) -> list[object]:
    return [one, other] * 6


def parquet(path: Path, /, *, features: object = None, **columns: object) -> Path:
    table = pa.table(columns)
    if features is not None:
        text = features if isinstance(features, bytes) else json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path)
    return path


def images() -> pa.Array:
    return pa.array([{"bytes": data, "path": name} for data, name in zip(IMAGES, NAMES, strict=True)])


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, data in zip(NAMES, IMAGES, strict=True):
        (tmp_path / name).write_bytes(data)
    return tmp_path


# Labels


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (raw_text(either(b"caf\xe9", b"b")), ("b", "caf\\xe9")),
        (
            pa.DictionaryArray.from_arrays(pa.array([0, 1] * 6, pa.int32()), raw_text([b"caf\xe9", b"b"])),
            ("b", "caf\\xe9"),
        ),
        (pa.array(either("a\0b", "a")), ("a", "a\0b")),
        (pa.array(either("a\rb", "a\nb")), ("a\nb", "a\rb")),
        (pa.array(either(str(2**70), "9")), ("9", str(2**70))),
        (pa.array(either("9" * 6000, "10")), ("10", "9" * 6000)),
        (pa.array(either(-(2**63), 3)), (str(-(2**63)), "3")),
        (pa.array(either(2**63 - 1, 3), pa.uint64()), ("3", str(2**63 - 1))),
        (pa.array(either("\u202eab", "\x1b[31m")), ("\x1b[31m", "\u202eab")),
    ],
)
def test_labels_of_parquet_are_texts_or_numbers_of_any_kind(folder, labels, classes):
    for columns in ({"image": images()}, {"path": NAMES}):
        table = open_table(parquet(folder / "x.parquet", **columns, label=labels))
        assert table.classes == classes
        first = labels.cast(pa.int64())[0] if pa.types.is_integer(labels.type) else labels[0]
        assert table.labels.tolist()[:3] == [table.labels[0], 1 - table.labels[0], table.labels[0]], first


def test_numbers_that_only_a_list_can_hold(folder):
    for labels, classes in (
        (pa.array(either(2**64 - 1, 3), pa.uint64()), ("3", str(2**64 - 1))),
        (pa.array(either(Decimal(2**70), Decimal(1)), pa.decimal128(38, 0)), ("1", str(2**70))),
    ):
        assert open_table(parquet(folder / "x.parquet", path=NAMES, label=labels)).classes == classes
        with pytest.raises(DataError, match="label"):
            open_table(parquet(folder / "x.parquet", image=images(), label=labels))


def test_labels_of_text_files_may_be_huge_numbers(folder):
    big = (2**70, 2**70 + 1)
    rows = "".join(f"{name},{big[k % 2]}\n" for k, name in enumerate(NAMES))
    (folder / "x.csv").write_text(f"path,label\n{rows}")
    (folder / "x.jsonl").write_text(
        "".join(json.dumps({"path": name, "label": big[k % 2]}) + "\n" for k, name in enumerate(NAMES))
    )
    for name in ("x.csv", "x.jsonl"):
        table = open_table(folder / name)
        assert table.classes == tuple(map(str, big)) and table.labels.tolist() == [0, 1] * 6


@pytest.mark.parametrize(
    "names", [7, "ab", {"a": 1}, [["a"], "b"], [None, "b"], [True, "b"], ["\ud800", "b"], ["a", "a"], ["", ""]]
)
def test_class_names_in_a_schema_that_are_no_names_are_refused(folder, names):
    with pytest.raises(DataError, match="class name"):
        open_table(
            parquet(folder / "x.parquet", image=images(), label=[0, 1] * 6, features={"label": {"names": names}})
        )


def test_class_names_in_a_schema_may_be_numbers(folder):
    file = parquet(folder / "x.parquet", image=images(), label=[0, 1] * 6, features={"label": {"names": [2**70, 1]}})
    assert open_table(file).classes == (str(2**70), "1")


@pytest.mark.parametrize("features", [b"[" * 100_000, b"null", b"\xff\xfe\0", b"[]", b'{"info": 1}'])
def test_metadata_of_another_shape_is_refused(folder, features):
    with pytest.raises(DataError, match="huggingface"):
        open_table(parquet(folder / "x.parquet", image=images(), label=[0, 1] * 6, features=features))


def test_half_of_a_surrogate_pair_is_no_class(folder):
    with pytest.raises(DataError, match="ud800"):
        open_table((np.zeros((4, 8, 8, 3), np.uint8), ["\ud800", "b"] * 2))


# Other columns, and names of files


@pytest.mark.parametrize("layout", ["images", "paths"])
def test_splits_and_groups_that_are_not_utf_8(folder, layout):
    columns = {"image": images()} if layout == "images" else {"path": NAMES}
    columns["label"] = either("a", "b")
    with pytest.raises(DataError, match=r"tr.*xff"):
        open_table(parquet(folder / "x.parquet", **columns, split=raw_text(either(b"tr\xff", b"test"))))
    table = open_table(parquet(folder / "x.parquet", **columns, group=raw_text(either(b"p\xff", b"q"))))
    assert table.groups == either("p\\xff", "q")


@POSIX
def test_names_of_files_that_are_not_utf_8(folder):
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"here")
    names = raw_text([b"caf\xe9.png", *(name.encode() for name in NAMES[1:])])
    structs = pa.StructArray.from_arrays([pa.nulls(12, pa.binary()), names], ["bytes", "path"])
    for columns in ({"path": names}, {"image": structs}):
        table = open_table(parquet(folder / "x.parquet", **columns, label=either("a", "b")))
        assert table.paths[0] == "caf\\xe9.png" and table.encoded(0) == b"here"


def test_columns_whose_names_are_not_utf_8_are_an_error(folder):
    file = parquet(folder / "x.parquet", path=NAMES, label=either("a", "b"), xxxx=[0] * 12)
    file.write_bytes(file.read_bytes().replace(b"xxxx", b"x\xff\xfex"))
    for read in (open_table, lambda path: open_inference_list(path, ReadOptions.of())):
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            read(file)


def test_two_columns_of_one_name_are_an_error(folder):
    columns = {"image": images(), "label": pa.array(either("a", "b")), "x": pa.array([0] * 12)}
    pq.write_table(pa.Table.from_arrays([*columns.values()], ["image", "label", "label"]), folder / "x.parquet")
    for read in (open_table, lambda path: open_inference_list(path, ReadOptions.of())):
        with pytest.raises(DataError, match=r"x\.parquet.*'label'"):
            read(folder / "x.parquet")


@pytest.mark.parametrize(
    "name", ["\ud800.png", "a\0b", "a\0b.csv", "~nobody-of-this-name/x.csv", "n" * 5000, "n" * 300 + ".csv"]
)
def test_names_that_no_file_can_have(name):
    for read in (open_table, table_of):
        with pytest.raises(DataError) as error:
            read(name)
        str(error.value).encode()


def test_text_names_are_valid_and_come_back():
    for name in ("a\\xe9", "caf\udce9", "a\r\n\tb", "plain", "é"):
        assert os_name(text_name(name)) == name
    text_name("\ud800").encode()


@POSIX
def test_names_with_line_ends_come_back_from_split_csv(tmp_path):
    for label in ("a\rb", "a\nb", "=cmd", "caf\udce9"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(8):
            (tmp_path / "data" / label / f"{k}\r\n\t\udce9.png").write_bytes(picture(20 * k + len(label)))
    table = open_table(tmp_path / "data")
    content = tuple(f"{k:064x}" for k in range(len(table)))
    split = splits.assign(table, content, SplitSpec(), 0)
    split_file.write(tmp_path / "split.csv", table, content, split)
    again = split_file.read(tmp_path / "split.csv", table, content)
    assert all((again.rows(name) == split.rows(name)).all() for name in splits.SPLITS)
    assert len(split_file.stored(tmp_path / "split.csv")) == len(table) == 32


# Damaged bytes


def stored_parquet(**options: object) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"image": images(), "label": [0, 1] * 6, "split": ["train", "test"] * 6, "group": ["g"] * 12})
    features = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), buffer, **options)
    return buffer.getvalue()


def stored_list(**options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"path": NAMES, "label": either("a", "b")}), buffer, **options)
    return buffer.getvalue()


def stored_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros((6, 4, 4, 3), np.uint8), y=np.array([0, 1] * 3))
    return buffer.getvalue()


def stored_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((6, 4, 4, 3), np.uint8))
    return buffer.getvalue()


def stored_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("batches.meta", "test_batch", *(f"data_batch_{k}" for k in range(1, 6))):
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = 64
            archive.addfile(entry, io.BytesIO(bytes(range(64))))
    return buffer.getvalue()


ROWS = "".join(f"{name},{'ab'[k % 2]},train\n" for k, name in enumerate(NAMES))
SEEDS = {
    "images.parquet": stored_parquet(),
    "v2.parquet": stored_parquet(compression="zstd", data_page_version="2.0", row_group_size=3),
    "plain.parquet": stored_parquet(compression="none", use_dictionary=False),
    "list.parquet": stored_list(),
    "x.npz": stored_npz(),
    "one.npz": stored_npy(),
    "cifar.tar": stored_tar(),
    "list.csv": f"path,label,split\n{ROWS}".encode(),
    "list.tsv": f"\ufeffpath\tlabel\n{ROWS}".encode("utf-16"),
    "list.jsonl": "".join(json.dumps({"path": name, "label": k % 2}) + "\n" for k, name in enumerate(NAMES)).encode(),
}
changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from(["set", "flip", "cut", "add"])),
    min_size=1,
    max_size=6,
)


def changed(data: bytes, edits: list[tuple[float, int, str]], *, tail: bool) -> bytes:
    """Bytes with some changed; with `tail` in the last 600, where the footer of a Parquet file is."""
    made = bytearray(data)
    for position, value, kind in edits:
        first = max(0, len(made) - 600) if tail else 0
        place = first + int(position * (len(made) - first))
        if kind == "set" and made:
            made[place] = value
        elif kind == "flip" and made:
            made[place] ^= 1 << value % 8
        elif kind == "cut":
            del made[place : place + value]
        else:
            made[place:place] = bytes([value, 255 - value])
    return bytes(made)


@pytest.fixture(scope="module")
def own_process() -> Iterator[OwnProcess]:
    with OwnProcess() as process:
        yield process


@pytest.mark.parametrize("name", SEEDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(edits=changes, tail=st.booleans())
def test_nothing_but_loupe_error_leaves_a_damaged_file(folder, own_process, name, edits, tail):
    (folder / name).write_bytes(data := changed(SEEDS[name], edits, tail=tail))
    assert own_process.read(folder / name) == "", data


def stored_in(encodings: dict[str, str], **options: object) -> bytes:
    buffer = io.BytesIO()
    images = pa.array([{"bytes": data[:20], "path": name} for data, name in zip(IMAGES, NAMES, strict=True)])
    columns = {"image": images, "label": either("a", "b"), "split": pa.array(["train", "test"] * 6), "n": range(12)}
    table = pa.table(columns if encodings else columns | {"split": columns["split"].dictionary_encode()})
    pq.write_table(table, buffer, use_dictionary=not encodings, column_encoding=encodings or None, **options)
    return buffer.getvalue()


DELTA = {"image.bytes": "DELTA_BYTE_ARRAY", "label": "DELTA_LENGTH_BYTE_ARRAY", "n": "DELTA_BINARY_PACKED"}
ENCODED = {
    "dictionary": stored_in({}, compression="none"),
    "delta": stored_in(DELTA, compression="none", data_page_version="2.0"),
    "gzip": stored_in({"n": "BYTE_STREAM_SPLIT"}, compression="gzip", row_group_size=5),
    "checksums": stored_in({}, compression="lz4", write_page_checksum=True, write_page_index=True),
    **{name: data for name, data in SEEDS.items() if name.endswith(".parquet")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODED)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=600)
@given(edits=changes, tail=st.booleans())
def test_parquet_files_of_all_encodings_damaged_in_many_ways(folder, own_process, name, edits, tail):
    (folder / "list.parquet").write_bytes(data := changed(ENCODED[name], edits, tail=tail))
    assert own_process.read(folder / "list.parquet") == "", data


def test_an_index_beyond_its_dictionary_is_an_error(folder):
    labels = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 6, pa.int32()), ["a", "b"])
    file = folder / "x.parquet"
    for columns in ({"image": images()}, {"path": NAMES}):
        pq.write_table(pa.table({**columns, "label": labels}), file, compression="none")
        data, indices = file.read_bytes(), b"\x18\x01\x01\x05\xaa\x0a"  # twelve of one bit, in a run of two bytes
        assert data.count(indices) == 1
        file.write_bytes(data.replace(indices, b"\x18\x01\x08\x18\xc8\x00"))  # twelve times the value 200
        with pytest.raises(DataError, match=r"x\.parquet"):
            open_table(file)


# Bytes of a list.parquet and others in their place: each ended the process of its reader, or kept it for hours.
OPTIONAL_TEXT, START = b"\x15\x0c\x25\x02\x18\x04path", b"PAR1\x15"
DEADLY = {
    "levels of another number": {OPTIONAL_TEXT: b"\x15\x0c\x25\x00\x18\x04path"},
    "sizes of truth values": {OPTIONAL_TEXT: b"\x15\x00\x25\x02\x18\x04path"},
    "name that is not UTF-8": {b"\x19\x18\x04path": b"\x19\x18\x04p\xffth", START: b"PAR1\x1d"},
    "2**62 truth values": {START: b"PAR1\x19\xf1" + b"\xff" * 8 + b"\x3f"},
    "2**62 numbers": {START: b"PAR1\x19\xf7" + b"\xff" * 8 + b"\x3f"},
    "number of 2**20 bytes": {START: b"PAR1\x15" + b"\xff" * 2**20},
}


@pytest.mark.parametrize("kind", DEADLY)
def test_a_parquet_file_that_ended_or_held_its_reader_is_an_error_or_read(folder, own_process, kind):
    data = stored_list()
    for old, new in DEADLY[kind].items():
        assert data.count(old) == 1
        data = data.replace(old, new)
    (folder / "x.parquet").write_bytes(data)
    assert own_process.read(folder / "x.parquet") == ""


def test_a_reader_that_dies_or_hangs_is_told_and_started_again(folder, monkeypatch):
    monkeypatch.setattr(damaged_files, "SECONDS", 0.2)
    with OwnProcess() as process:
        process._child = start("import os, sys; sys.stdin.readline(); os.abort()")
        assert "status" in process.read(folder / "x.parquet")
        process._child = start("import sys; sys.stdin.read()")
        assert "0.2 s" in process.read(folder / "x.parquet")
        monkeypatch.undo()
        assert process.read(folder / "x.parquet") == ""


def test_a_footer_with_more_rows_than_there_are_is_an_error(folder, monkeypatch):
    file = parquet(folder / "x.parquet", path=NAMES, label=either("a", "b"))
    real = pq.read_metadata(file)
    claimed = Mock(wraps=real, num_rows=real.num_rows + 5, num_row_groups=real.num_row_groups)
    claimed.num_columns = real.num_columns
    monkeypatch.setattr(pq, "read_metadata", lambda path: claimed)
    for read in (open_table, lambda path: open_inference_list(path, ReadOptions.of())):
        with pytest.raises(DataError, match="12 of 17 rows"):
            read(file)


def test_a_header_of_an_array_that_is_no_python_is_an_error(folder):
    data = stored_npy()
    (folder / "x.npz").write_bytes(data.replace(b"(6, 4, 4, 3)", b"(6, 4, 4, (3"))
    with pytest.raises(DataError):
        open_table(folder / "x.npz")
    (folder / "x.npz").write_bytes(data.replace(b"(6, 4, 4, 3), } ", b"(10**9, 10**9)}"))
    with pytest.raises(LoupeError):
        open_table(folder / "x.npz")


# Folders that cannot be read

READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from loupe.data.sources.open import open_table
from loupe.data.sources.inference_inputs import table_of
from loupe.errors import ImageError, LoupeError
os.setgid(65534), os.setuid(65534)
def damaged(table):
    for i in range(len(table)):
        try: table.encoded(i)
        except ImageError: yield table.paths[i]
for read in (open_table, table_of):
    for name in sys.argv[1:]:
        try: print(name, *damaged(read(name)))
        except LoupeError as error: print(name, type(error).__name__, 'Permission denied' in str(error))
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be somebody else")
def test_what_may_not_be_read_is_an_error_or_a_damaged_image():
    with tempfile.TemporaryDirectory() as folder:  # which others may enter, unlike pytest's
        examine_rights(Path(folder))


def examine_rights(root: Path) -> None:
    root.chmod(0o755)
    for name in ("listed", "closed", "file", "top"):
        for label in ("a", "b"):
            (root / name / label).mkdir(parents=True)
            (root / name / label / "1.png").write_bytes(IMAGES[0])
    (root / "listed/a").chmod(0o444)
    (root / "closed/a").chmod(0o000)
    (root / "file/a/1.png").chmod(0o000)
    (root / "top").chmod(0o444)
    names = ["listed", "closed", "file", "top"]
    done = subprocess.run(
        [sys.executable, "-c", READ_AS_NOBODY, *names],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    prefix = {"train": "", "predict": "{}/"}
    expected = []
    for kind in prefix.values():
        for name in names:
            found = f"{kind.format(name)}a/1.png" if name in ("listed", "file") else "DataError True"
            expected.append(f"{name} {found}")
    assert done.stdout.splitlines() == expected


@POSIX
def test_a_folder_removed_while_it_is_read_is_an_error_and_after_that_damaged_images(tmp_path, monkeypatch):
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.png").write_bytes(IMAGES[0])
    table, list_entries = open_table(tmp_path / "data"), folders._entries

    def racing(folder: str) -> object:
        found = list_entries(folder)
        shutil.rmtree(tmp_path / "data/b", ignore_errors=True)
        return found

    monkeypatch.setattr(folders, "_entries", racing)
    with pytest.raises(DataError, match=r"b: this folder cannot be read: .* start again"):
        open_table(tmp_path / "data")
    assert table.encoded(0) == IMAGES[0]
    with pytest.raises(ImageError, match="No such file"):
        table.encoded(1)


@pytest.fixture
def nested(tmp_path) -> Iterator[Path]:
    """Two class folders, of which one has its image below 1,500 others; removed, as rmtree could not."""
    path = tmp_path / "b"
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(IMAGES[0])
    for _ in range(1500):
        path.mkdir()
        path = path / "d"
    path.mkdir()
    (path / "1.png").write_bytes(IMAGES[0])
    yield tmp_path
    (path / "1.png").unlink()
    while path != tmp_path:
        path.rmdir()
        path = path.parent


@POSIX
@pytest.mark.slow
def test_folders_nested_deeper_than_python_calls(nested):
    assert len(open_table(nested)) == len(table_of(nested)) == 2
    with pytest.raises(DataError, match="nested too deeply"):
        table_of(f"{nested}/**/*.png")


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="this system has no /proc")
def test_folders_of_the_system_are_not_read(tmp_path):
    for read in (open_table, table_of):
        for name in ("/proc", "/proc/self", "/dev"):
            with pytest.raises(DataError, match="a folder of the system"):
                read(name)
    with pytest.raises(DataError, match="no image"):
        table_of("/proc/k*")  # a read of /proc/kmsg would wait
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(IMAGES[0])
    (tmp_path / "a/proc").symlink_to("/proc")
    tree = folders.scan(tmp_path, follow_links=True)
    assert tree.system == ["a/proc"] and tree.images == ["a/1.png", "b/1.png"]
    assert "Skipped 1 folder of the system (a/proc)." in tree.notes()


def test_a_list_that_is_no_regular_file(tmp_path):
    (tmp_path / "photos.csv").mkdir()
    (tmp_path / "photos.csv/1.png").write_bytes(IMAGES[0])
    assert table_of(tmp_path / "photos.csv").paths == (f"{tmp_path.as_posix()}/photos.csv/1.png",)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")
        with pytest.raises(DataError, match="not a regular file"):
            table_of(tmp_path / "pipe.csv")
