"""Predictions on a real Ray: a command and a node are killed in the middle, and each image has exactly one row."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are counted in /proc"),
]

from ray_nodes import LONG_SECONDS, command  # noqa: E402

IMAGES, MADE, SIDE = 160, 5, 1000
SCRIPT = Path(__file__).with_name("predict_in_units.py")


@pytest.fixture(scope="module")
def photos(folder) -> Path:
    """160 large images, which are links to five, and one that is damaged."""
    place, random = folder / "photos", np.random.default_rng(0)
    place.mkdir()
    for number in range(MADE):
        coarse = random.integers(0, 256, (70, 70, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(place / f"{number:03}.png", compress_level=1)
    for number in range(MADE, IMAGES):
        os.link(place / f"{number % MADE:03}.png", place / f"{number:03}.png")
    (place / "damaged.png").write_bytes((place / "000.png").read_bytes()[:5000])
    return place


def parts(output: Path) -> dict[str, tuple[int, int]]:
    """Parts with their inode and time, which change where one is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("part-*.parquet")}


def rows(path: Path) -> pa.Table:
    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    return pa.concat_tables([pq.read_table(file).replace_schema_metadata() for file in files])


def test_each_image_has_one_row_after_the_command_and_a_node_were_killed(folder, plain, environment, photos, nodes):
    run, output = plain / "digits-digits-seed0", folder / "predictions"
    words = [sys.executable, "-m", "loupe", "predict", str(run), str(photos), "--to", "one.parquet", "--device", "cpu"]
    subprocess.run(words, env=environment, cwd=folder, check=True, capture_output=True, timeout=LONG_SECONDS)
    second = nodes.start("second", cpus=1)
    script = [str(run), str(photos), f"{output}/", nodes.address]
    started = partial(command, script, nodes.environment, folder, (sys.executable, str(SCRIPT)))
    with started() as killed:
        killed.until(lambda: len(parts(output)) >= 2, "two parts")
        killed.process.kill()
        killed.end()
    before = parts(output)
    with started() as again:
        again.until(lambda: len(parts(output)) >= len(before) + 2, "two parts more")
        nodes.kill(second)
        more = parts(output)
        assert len(more) < IMAGES // 8
        assert again.end() == 0, again.log.read_text()
    after = parts(output)
    assert {name: after[name] for name in more} == more, "a part that was there was written again"
    assert {name: more[name] for name in before} == before
    found, wanted = rows(output), rows(folder / "one.parquet")
    assert found.num_rows == IMAGES + 1 and len(set(found["path"].to_pylist())) == IMAGES + 1
    assert found.equals(wanted)
    assert [row["path"] for row in found.to_pylist() if row["reason"]] == [str(photos / "damaged.png")]
