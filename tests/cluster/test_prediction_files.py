"""Images that a prediction reads on the nodes: found in the plan of each kind of source, and checked there."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.bulk.opening import source_of
from loupe.bulk.output import Output
from loupe.bulk.plan import Plan, Settings, asked_of, make_plan
from loupe.bulk.predict import Written
from loupe.bulk.reading import read_here
from loupe.cluster.nodes import Cluster, Node
from loupe.cluster.predictions import ClusterPredictions, ModelPlace
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import ConfigError

SETTINGS = Settings(model="0", classes=("a",), temperature=1.0, threshold=0.0, top=1, tta=None)
TWO = Cluster("10.0.0.1:6379", (Node("a", "first", 64.0, 0.0), Node("b", "second", 64.0, 0.0)))


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Five files that are listed as images."""
    files = [tmp_path / "images" / f"{number}.png" for number in range(5)]
    files[0].parent.mkdir()
    for file in files:
        file.write_bytes(b"x")
    return files


def plan_of(folder: Path, places: list[str], listed: Path | None = None) -> Plan:
    """Plan of a source in units of two images."""
    folder.mkdir()
    source = source_of(places, listed, ReadOptions.of())
    return make_plan(folder, source, asked_of(source, ReadOptions.of(), SETTINGS), unit_images=2)


def test_the_first_and_the_last_image_of_the_units_are_found(images, tmp_path):
    plan = plan_of(tmp_path / "plan", [str(images[0].parent)])
    assert read_here(plan, [0, 1, 2]) == [images[0], images[4]]
    assert read_here(plan, [1]) == [images[2], images[3]]
    images[2].unlink()
    assert read_here(plan, [1]) == [images[3]]


def test_the_images_of_a_list_are_found(images, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("path\nimages/gone.png\nimages/1.png\nimages/3.png\n")
    assert read_here(plan_of(tmp_path / "plan", [], listed), [0, 1]) == [images[1], images[3]]


def test_the_tars_and_the_parquet_file_of_images_are_found(images, tmp_path):
    tars = [tmp_path / f"s-{number}.tar" for number in range(2)]
    for tar in tars:
        with tarfile.open(tar, "w") as archive:
            for name in ("a.png", "b.png"):
                member = tarfile.TarInfo(name)
                member.size = 1
                archive.addfile(member, io.BytesIO(b"x"))
    assert read_here(plan_of(tmp_path / "tars", [str(tmp_path / "s-{0..1}.tar")]), [0, 1]) == tars
    rows = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": [b"x", b"y", b"z"]}), rows)
    assert read_here(plan_of(tmp_path / "rows", [], rows), [0, 1]) == [rows]


def test_a_node_that_does_not_see_the_images_is_named_before_anything_is_predicted(images, tmp_path, monkeypatch):
    def each(self, function, probe, needed):
        """The second node has an empty folder where the images are mounted."""
        theirs = [path.with_name("gone") if path in images else path for path in needed]
        return [function(probe, needed), function(probe, theirs)]

    monkeypatch.setattr(Cluster, "each", each)
    plan = plan_of(tmp_path / "plan", [str(images[0].parent)])
    runner = ClusterPredictions(TWO, ModelPlace(tmp_path, False, "cpu", None))
    with pytest.raises(ConfigError, match=r"node second .*images.gone"):
        runner(Output(tmp_path / "out", True), plan, Written([0, 1, 2], {}, 0, 0))
    assert not list((tmp_path / "out").glob("part-*"))
