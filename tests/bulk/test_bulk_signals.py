"""SIGTERM ends a prediction in bulk at once; what is written stays, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loupe
from bulk_predictions import names
from loupe.bulk.plan import UNIT_IMAGES

COUNT = 3 * UNIT_IMAGES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="no such signals")]


@pytest.fixture
def photos(tmp_path):
    first, folder = tmp_path / "first.png", tmp_path / "photos"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (90, 90, 3), np.uint8)).save(first)
    folder.mkdir()
    for k in range(COUNT):
        os.link(first, folder / f"{k:05}.png")
    return folder


def test_sigterm_ends_it_and_the_same_command_goes_on(photos, tmp_path):
    run = loupe.train("digits", epochs=1, precision="fp32", output=tmp_path, name="toy", device="cpu", quiet=True).path
    out, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    words = [sys.executable, "-m", "loupe", "predict", str(run), str(photos), "--to", str(out), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not (parts / "part-000000.parquet").is_file():
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        sent = time.monotonic()
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
        assert time.monotonic() - sent < 20  # two seconds, where the machine is not loaded
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 128 + signal.SIGTERM
    assert "same command again" in err
    kept = [name for name in names(parts) if name.startswith("part-")]
    assert "part-000000.parquet" in kept and not out.exists()
    before = {name: (parts / name).stat().st_mtime_ns for name in kept}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{len(before) * UNIT_IMAGES:,} images of {COUNT:,} are written already" in done.stderr
    assert pq.read_metadata(out).num_rows == COUNT
    assert len(set(pq.read_table(out)["path"].to_pylist())) == COUNT
    assert not parts.exists()
