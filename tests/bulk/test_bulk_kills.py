"""Killed anywhere and started again: each image has one row, and none is decoded again once its row is written."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bulk_killed import STAGES, UNIT
from bulk_predictions import names, rows

COUNT, KILLS = 90, 6
MOST = {"listing": COUNT, "decoding": COUNT, "syncing": 16, "renaming": 8, "renamed": 8, "removing": 20}
CHILD = Path(__file__).parents[1] / "bulk_killed.py"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "photos"
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        place = folder / "abcd"[k % 4]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(place / f"{k:02}.png")
    (folder / "b" / "01.png").write_bytes(b"no image")
    return folder


def started(photos, out, notes, stage, number):
    sources = os.pathsep.join(sys.path)
    words = [sys.executable, str(CHILD), str(photos), str(out), str(notes), stage, str(number)]
    return subprocess.run(words, env={**os.environ, "PYTHONPATH": sources}, capture_output=True, text=True, timeout=120)


def written(out: Path) -> set[str]:
    """Images with a row in a part that is whole, or in the result."""
    folder = out.with_name(f"{out.name}.parts") if out.suffix else out
    files = [*folder.glob("part-*.parquet"), *([out] if out.is_file() else [])]
    return {path for file in files for path in pq.read_table(file)["path"].to_pylist()}


@pytest.mark.parametrize(("seed", "name"), [(0, "out.parquet"), (1, "out")])
def test_killed_at_random_moments_each_image_has_one_row(photos, tmp_path, seed, name):
    whole = tmp_path / "whole.parquet"
    assert started(photos, whole, tmp_path / "all", "none", 0).returncode == 0
    draw, out, killed = random.Random(seed), tmp_path / name, []
    for k in range(KILLS):
        stage = STAGES[(seed + k) % len(STAGES)]
        kept, notes = written(out), tmp_path / f"notes-{k}"
        done = started(photos, out, notes, stage, draw.randint(1, MOST[stage]))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        killed.append(done.returncode)
        decoded = notes.read_text().split() if notes.exists() else []
        assert len(set(decoded)) == len(decoded)
        assert not kept & set(decoded)
    kept = written(out)
    assert started(photos, out, tmp_path / "last", "none", 0).returncode == 0
    assert not kept & set((tmp_path / "last").read_text().split() if (tmp_path / "last").exists() else [])
    assert sum(code != 0 for code in killed) >= 3
    assert rows(out).equals(rows(whole))
    assert len(set(rows(out)["path"].to_pylist())) == len(rows(out)) == COUNT
    assert not list(tmp_path.glob("out.parquet.*"))
    if out.is_dir():
        assert [path for path in names(out) if not path.startswith("part-")] == ["_predictions.json"]


def test_the_last_moments_are_no_less_safe(photos, tmp_path):
    """Kills one event apart, from the last parts to the end of the removal of the plan."""
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    assert started(photos, whole, tmp_path / "all", "none", 0).returncode == 0
    units = -(-COUNT // UNIT)
    for stage, number in (("renaming", 3 + units), ("renamed", 1), ("removing", 4), ("removing", 3)):
        done = started(photos, out, tmp_path / "notes", stage, number)
        assert done.returncode == -signal.SIGKILL, (stage, number, done.stderr)
    assert started(photos, out, tmp_path / "notes", "none", 0).returncode == 0
    assert rows(out).equals(rows(whole))
    decoded = (tmp_path / "notes").read_text().split()
    assert len(decoded) == len(set(decoded)) == COUNT
