"""Heads of the search for wrong labels on a real Ray: the predictions of one process, to the last bit."""

import subprocess
import sys

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SCRIPT = """
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
    print("equal")
"""


def test_heads_on_a_cluster_are_those_of_one_process(environment, tmp_path):
    script = tmp_path / "heads.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert ran.stdout.split() == ["equal"], ran.stderr
    assert ran.stderr == ""
