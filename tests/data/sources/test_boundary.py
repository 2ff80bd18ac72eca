"""Files outside the folder of the data are read only if asked for, whatever names them: links, `..`, absolute paths."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import cifar_files, picture
from loupe.data import table as tables
from loupe.data.dataset import open_dataset
from loupe.data.hashing import content_hashes
from loupe.data.sources import image_files
from loupe.data.sources.boundary import Boundary
from loupe.data.sources.folders import from_paths
from loupe.data.sources.inference_inputs import table_of
from loupe.data.sources.inference_list import open_inference_list
from loupe.data.sources.open import open_table
from loupe.data.sources.read_options import ReadOptions
from loupe.data.table import ImageTable
from loupe.errors import DataError, ImageError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")

INSIDE, SECRET = picture(1), picture(200)
FOLLOW, STAY = ReadOptions.of(follow_links=True), ReadOptions.of()
COMMAND = "--follow-links"


@pytest.fixture
def data(tmp_path) -> Path:
    """Folder `data` with two classes, beside a file `secret.png` and a folder `elsewhere`."""
    for name in ("data/cat/1.png", "data/cat/2.png", "data/dog/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(INSIDE)
    (tmp_path / "elsewhere").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "elsewhere/4.png"):
        path.write_bytes(SECRET)
    return tmp_path / "data"


def read(table: ImageTable) -> dict[str, bytes | str]:
    """Bytes of each image, or the reason why it has none."""
    found: dict[str, bytes | str] = {}
    for i, path in enumerate(table.paths):
        try:
            found[path] = table.encoded(i)
        except ImageError as error:
            found[path] = error.reason
    return found


def assert_refused(reason: bytes | str, target: Path) -> None:
    assert isinstance(reason, str) and str(target) in reason and COMMAND in reason


def test_a_link_to_a_file_outside_is_a_damaged_image(data):
    (data / "dog/9.png").symlink_to(data.parent / "secret.png")
    table = open_table(data)
    found = read(table)
    assert_refused(found.pop("dog/9.png"), data.parent / "secret.png")
    assert set(found.values()) == {INSIDE} and len(found) == 3
    assert read(open_table(data, FOLLOW))["dog/9.png"] == SECRET
    assert len(set(content_hashes(table))) == 2 and content_hashes(table)[3] not in content_hashes(
        open_table(data, FOLLOW)
    )


@pytest.mark.parametrize(
    "target", ["../../elsewhere", "../../data/../elsewhere", "../dog/../../elsewhere", "../..", "/"]
)
def test_a_link_to_a_folder_outside_is_refused(data, target):
    (data / "cat/more").symlink_to(target)
    with pytest.raises(DataError, match=COMMAND) as error:
        open_table(data)
    assert "cat/more -> " in str(error.value)


def test_a_class_that_is_a_link_is_not_lost(data):
    (data / "owl").symlink_to(data.parent / "elsewhere")
    with pytest.raises(DataError, match=r"1 link leads out of this folder, such as owl -> .*--follow-links"):
        open_table(data)
    assert open_table(data, FOLLOW).classes == ("cat", "dog", "owl")


def test_links_inside_and_the_link_that_is_named_are_followed(data):
    (data / "cat/same.png").symlink_to("../dog/3.png")
    (data / "owl").symlink_to("dog")
    (data / "cat/chain.png").symlink_to(data / "owl/3.png")
    (data.parent / "link").symlink_to(data)
    table = open_table(data.parent / "link")
    assert table.paths == ("cat/1.png", "cat/2.png", "cat/chain.png", "cat/same.png", "dog/3.png")
    assert set(read(table).values()) == {INSIDE}


def test_a_folder_of_links_is_refused_once(data):
    farm = data.parent / "farm"
    for path in sorted(data.rglob("*.png")):
        (farm / path.relative_to(data)).parent.mkdir(parents=True, exist_ok=True)
        (farm / path.relative_to(data)).symlink_to(path)
    with pytest.raises(DataError, match=r"3 links lead out of this folder, such as cat/1\.png -> .*--follow-links"):
        open_table(farm)
    assert set(read(open_table(farm, FOLLOW)).values()) == {INSIDE}
    with pytest.raises(DataError, match=COMMAND):
        from_paths(farm)
    assert len(from_paths(farm, follow_links=True)) == 3


def test_files_outside_of_other_kinds_are_refused_or_not_looked_at(data, tmp_path):
    outside = tmp_path / "elsewhere"
    (outside / "metadata.csv").write_text("file_name,label\ncat/1.png,a\n")
    pq.write_table(pa.table({"image": [SECRET], "label": ["a"]}), outside / "0.parquet")
    (data / "notes.txt").symlink_to(outside / "metadata.csv")
    (data / "unnamed").symlink_to(data.parent / "secret.png")  # would be found as an image without a suffix
    assert len(open_table(data)) == 3 and not open_table(data).unread
    for name in ("metadata.csv", "0.parquet"):
        (data / name).symlink_to(outside / name)
        with pytest.raises(DataError, match=f"{name} -> .*{COMMAND}"):
            open_table(data)
        (data / name).unlink()


def test_an_unpacked_archive_of_links_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    for name, content in cifar_files(10)[0].items():
        (tmp_path / "real" / name).write_bytes(content)
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / name)
    assert len(open_table(tmp_path / "links", FOLLOW)) == len(open_table(tmp_path / "real"))
    with pytest.raises(DataError, match=COMMAND):
        open_table(tmp_path / "links")


OUTSIDE = ["../secret.png", "{root}/secret.png", "cat/../../secret.png", "out/4.png", "link.png", "LINK.png"]


def name_outside(data: Path, name: str) -> str:
    """Name in a list, with the link that it needs."""
    if name.startswith("out"):
        (data / "out").symlink_to(data.parent / "elsewhere")
    if name == "link.png":
        (data / name).symlink_to(data.parent / "secret.png")
    if name == "LINK.png":
        (data / name).symlink_to("/etc/passwd")
    return name.format(root=data.parent)


def write_list(data: Path, suffix: str, names: list[str]) -> Path:
    path, rows = data / f"list{suffix}", [{"path": name, "label": "ab"[i % 2]} for i, name in enumerate(names)]
    match suffix:
        case ".csv":
            path.write_text("path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in rows))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".images.parquet":  # structs in the Hugging Face layout
            images = [{"image": {"bytes": None, "path": row["path"]}, "label": row["label"]} for row in rows]
            pq.write_table(pa.Table.from_pylist(images), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".images.parquet"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_row_that_leads_out_is_a_damaged_image_or_refused_if_all_do(data, suffix, name):
    name = name_outside(data, name)
    path = write_list(data, suffix, ["cat/1.png", "dog/3.png", name])
    table = open_table(path)
    found = [*read(table).values()]
    assert found[:2] == [INSIDE, INSIDE]
    assert_refused(found[2], Path(os.path.realpath(data / name)))
    assert "list" in str(table.located(2, ImageError(name, "")))
    assert isinstance([*read(open_table(path, FOLLOW)).values()][2], bytes)
    alone = write_list(data, suffix, [name, name])
    with pytest.raises(DataError, match=COMMAND):
        open_table(alone)
    assert len(open_table(alone, FOLLOW)) == 2


@pytest.mark.parametrize("suffix", [".csv", ".images.parquet"])
def test_a_list_to_predict_has_the_same_rule(data, suffix):
    path = write_list(data, suffix, ["cat/1.png", "../secret.png"])
    table = open_inference_list(path, STAY).table
    inside, outside = read(table).values()
    assert inside == INSIDE
    assert_refused(outside, data.parent / "secret.png")
    assert [*read(table_of(path, follow_links=True)).values()] == [INSIDE, SECRET]
    with pytest.raises(DataError, match=COMMAND):
        open_inference_list(write_list(data, suffix, ["../secret.png"]), STAY)


def test_absolute_paths_are_read_inside_the_folder_and_in_the_one_that_is_named(data, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = [str(data / "cat/1.png"), str(data / "dog/3.png")]
    assert set(read(open_table(write_list(data, ".csv", names))).values()) == {INSIDE}
    path = write_list(lists, ".csv", names)
    with pytest.raises(DataError, match=f"--images {data} or --follow-links"):
        open_table(path)
    for folder in (data, tmp_path, "/"):
        assert set(read(open_table(path, ReadOptions.of(images=folder))).values()) == {INSIDE}
    (tmp_path / "named").symlink_to(data)
    assert set(read(open_table(path, ReadOptions.of(images=tmp_path / "named"))).values()) == {INSIDE}
    with pytest.raises(DataError, match=f"--images {data} or --follow-links"):
        open_table(path, ReadOptions.of(images=tmp_path / "elsewhere"))


def test_a_folder_with_a_list_is_one_folder(data):
    """`..` in metadata of a subfolder stays inside the data."""
    (data / "cat/metadata.csv").write_text("file_name,label\n1.png,a\n../dog/3.png,b\n../../secret.png,c\n")
    found = read(open_table(data))
    assert [*found.values()][:2] == [INSIDE, INSIDE]
    assert_refused([*found.values()][2], data.parent / "secret.png")


def test_files_that_are_named_are_read_wherever_they_are(data, monkeypatch):
    (data / "link.png").symlink_to(data.parent / "secret.png")
    monkeypatch.chdir(data)
    for named in ("link.png", "../secret.png", str(data.parent / "secret.png"), "*.png", data.parent / "secret.png"):
        assert [*read(table_of(named)).values()] == [SECRET]
        assert [*read(table_of([named, INSIDE])).values()] == [SECRET, INSIDE]
    found = read(table_of([".", INSIDE]))
    assert_refused(found.pop("link.png"), data.parent / "secret.png")
    assert set(found.values()) == {INSIDE} and len(found) == 4


def test_a_name_that_begins_like_the_folder_is_outside(data):
    (data.parent / "data2").mkdir()
    (data.parent / "data2/5.png").write_bytes(SECRET)
    boundary = Boundary(data, follow_links=False)
    assert boundary.outside(data.parent / "data2/5.png") == str(data.parent / "data2/5.png")
    assert boundary.outside(data / "cat/1.png") is None
    assert boundary.outside(data / "cat" / "..") is None
    assert boundary.outside(data / "..") == str(data.parent)
    assert boundary.outside(data.parent / "gone.png") is None, "a missing file is a damaged image, wherever"
    assert Boundary(Path("/"), follow_links=False).outside(data / "cat/1.png") is None
    assert Boundary(data, follow_links=True).outside(data.parent / "secret.png") is None


def test_a_file_has_a_largest_size(data, monkeypatch):
    monkeypatch.setattr(tables, "MAX_FILE_BYTES", len(INSIDE) - 1)
    (data / "cat/small.png").write_bytes(b"x" * (len(INSIDE) - 1))
    found = read(open_table(data))
    assert found.pop("cat/small.png") == b"x" * (len(INSIDE) - 1)
    assert (
        all(f"{len(INSIDE):,} bytes exceed the limit" in str(reason) for reason in found.values()) and len(found) == 3
    )
    assert f"{len(INSIDE):,} bytes exceed" in str(read(table_of([INSIDE]))["image 0"])


def test_a_sparse_file_of_a_terabyte_is_not_read(data):
    with (data / "cat/9.png").open("wb") as file:
        try:
            file.truncate(2**40)
        except OSError:
            pytest.skip("this disk has no sparse files")
    table = open_dataset(data, announce=False).table
    assert "exceed the limit of 268,435,456" in str(read(table)["cat/9.png"])


@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="this system has no /proc")
def test_a_file_of_the_system_that_states_no_size_is_empty(data):
    (data / "cat/9.png").symlink_to("/proc/self/environ")
    assert read(open_table(data, FOLLOW))["cat/9.png"] == b""


# Snapshots in the cache of the Hugging Face hub: folders of links into the folder `blobs` of their entry


@pytest.fixture
def entry(tmp_path) -> Path:
    """Entry of a data set with two snapshots' folders; its images, list and shard are links."""
    entry = tmp_path / "hub/datasets--owner--name"
    (entry / "blobs").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(SECRET)
    for name in ("train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "train/dog/4.png"):
        link(entry, f"images/{name}", picture(len(name) + int(name[-5])))
    return entry


def link(entry: Path, name: str, content: bytes) -> Path:
    """Link of a snapshot to a new file among the blobs, relative as the hub's client makes it."""
    blob = entry / "blobs" / sha256(content).hexdigest()
    blob.write_bytes(content)
    path = entry / "snapshots/0a1b" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(Path(*[".."] * (name.count("/") + 2), "blobs", blob.name))
    return path


def test_a_snapshot_of_the_hub_is_read_through_its_links(entry):
    for folder in ("snapshots/0a1b/images", "snapshots/0a1b/images/train"):
        table = open_table(entry / folder)
        assert table.classes == ("cat", "dog") and len(table) == 4
        assert all(isinstance(found, bytes) for found in read(table).values())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_lists_of_a_snapshot_are_where_their_links_are(entry, suffix):
    names, labels = ["train/cat/1.png", "train/dog/3.png"] * 2, ["cat", "dog"] * 2
    file = entry / "list"
    if suffix == "csv":
        file.write_text(
            "path,label\n" + "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
        )
    else:
        pq.write_table(pa.table({"path": names, "label": labels}), file)
    path = link(entry, f"images/list.{suffix}", file.read_bytes())
    opened = open_dataset(path)
    assert opened.source == str(path) and len(open_dataset(opened.source).table) == 4
    assert all(isinstance(found, bytes) for found in read(opened.table).values())


def test_a_shard_of_a_snapshot_is_read(entry):
    file = entry / "shard"
    images = [{"bytes": picture(k), "path": f"{k}.png"} for k in range(4)]
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 2}), file)
    link(entry, "data/train-00000-of-00001.parquet", file.read_bytes())
    assert len(open_table(entry / "snapshots/0a1b/data")) == 4


def test_metadata_of_a_snapshot_are_read(entry):
    content = "file_name,label\ntrain/cat/1.png,a\ntrain/dog/3.png,b\n"
    link(entry, "images/metadata.csv", content.encode())
    assert open_table(entry / "snapshots/0a1b/images").classes == ("a", "b")


def test_links_of_a_snapshot_lead_to_the_blobs_of_its_entry_alone(entry, tmp_path):
    images = entry / "snapshots/0a1b/images"
    (entry / "blobs/linked").symlink_to(tmp_path / "secret.png")
    other = tmp_path / "hub/datasets--owner--other/blobs/secret"
    other.parent.mkdir(parents=True)
    other.write_bytes(SECRET)
    for number, target in enumerate([entry / "blobs/linked", other, tmp_path / "secret.png"]):
        (images / f"train/dog/9{number}.png").symlink_to(target)
    found = read(open_table(images))
    assert sorted(name for name, content in found.items() if isinstance(content, str)) == [
        f"train/dog/9{number}.png" for number in range(3)
    ]


@pytest.mark.parametrize("how", ["blobs are elsewhere", "no entry of a hub", "no snapshot"])
def test_folders_that_are_no_entry_of_a_hub_have_no_blobs(entry, tmp_path, how):
    folder = entry / "snapshots/0a1b/images"
    if how == "blobs are elsewhere":
        (entry / "blobs").rename(tmp_path / "elsewhere")
        (entry / "blobs").symlink_to(tmp_path / "elsewhere")
    elif how == "no entry of a hub":
        folder = entry.rename(entry.parent / "photos") / "snapshots/0a1b/images"
    else:
        (entry / "snapshots").rename(entry / "pictures")
        folder = entry / "pictures/0a1b/images"
    with pytest.raises(DataError, match=COMMAND):
        open_table(folder)


# A search for names


def test_a_name_is_not_searched_on_a_whole_disk(data, monkeypatch):
    file = data / "list.csv"
    file.write_text("path,label\nnowhere-1.png,a\nnowhere-2.png,b\n")
    monkeypatch.setattr(image_files, "scan", lambda *_, **__: pytest.fail("the disk is searched"))
    root = Path(data.anchor)
    with pytest.raises(DataError, match="--images FOLDER"):
        open_table(file, ReadOptions.of(images=root))
    file.write_text(f"path,label\n{data / 'cat/1.png'},a\n{data / 'dog/3.png'},b\nnowhere-2.png,b\n")
    assert len(open_table(file, ReadOptions.of(images=root))) == 3


def test_a_folder_of_too_many_files_is_not_searched(data, monkeypatch):
    file = data.parent / "list.csv"
    file.write_text("path,label\n1.png,a\n3.png,b\n")
    assert len(open_table(file, ReadOptions.of(images=data))) == 2
    monkeypatch.setattr(image_files, "MOST_ENTRIES", 4)
    with pytest.raises(DataError, match="more than 4 files"):
        open_table(file, ReadOptions.of(images=data))
