"""Heads of the search for wrong labels on a local Ray, which is on loopback and ends when its command is killed."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from loupe.cluster import connection

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are counted in /proc"),
]

from ray_nodes import command, listening, living, until  # noqa: E402

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}  # IPv4, mapped, IPv6
SCRIPT = """
import sys
import time
import numpy as np
import torch
from loupe.cluster.connection import connected
from loupe.cluster.heads import ClusterHeads
from loupe.labels.cross_fit import cross_fit

def suspects(label_N, probability_NK):
    return probability_NK[np.arange(len(label_N)), label_N] < 0.2

if __name__ == "__main__":
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    label_N = random.integers(0, 3, 300)
    features_NC = (random.normal(size=(300, 12)) + np.eye(12)[label_N]).astype(np.float32)
    fold_N = np.arange(300) % 4
    alone = cross_fit(features_NC, label_N, fold_N, suspects=suspects)
    with connected("local") as cluster:
        spread = cross_fit(features_NC, label_N, fold_N, suspects=suspects, solver=ClusterHeads(cluster))
        assert np.array_equal(alone.probability_NK, spread.probability_NK)
        assert np.array_equal(alone.without_NK, spread.without_NK)
        assert (alone.strength_F, alone.left_out_F) == (spread.strength_F, spread.left_out_F)
        print("equal", flush=True)
        time.sleep(300)
"""


@pytest.fixture
def place():
    """Folder with a path that is short enough for sockets."""
    made = Path(tempfile.mkdtemp(prefix="lr", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_heads_are_those_of_one_process_and_a_local_ray_is_on_loopback_and_ends_when_its_command_is_killed(
    environment, tmp_path, place
):
    script = tmp_path / "heads.py"
    script.write_text(SCRIPT)
    with command([], {**environment, "TMPDIR": str(place)}, tmp_path, (sys.executable, str(script))) as killed:
        killed.until(lambda: killed.log.read_text(), "the heads")
        assert killed.log.read_text().split() == ["equal"]
        connection._remove_left(place)
        assert len(list(place.glob(f"{connection.PREFIX}*/session_*"))) >= 1
        found = listening(killed.process.pid)
        assert found and found <= LOOPBACK
        killed.process.kill()
        killed.end()
        until(lambda: len(living(killed.seen)) <= 2, "the end of all but Ray's agents, which wait a minute")
    connection._remove_left(place)
    assert list(place.glob(f"{connection.PREFIX}*")) == []
