"""Trainings in one process, with which those on a cluster are compared; and the head of a cluster for all tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_nodes import RayNodes, ray_nodes

EPOCHS = 8
WORDS = ["compare", "digits", "--recipes", "digits-plain,digits", "--set", f"stages.0.epochs={EPOCHS}"]
WORDS += ["--set", "precision=fp32", "--device", "cpu"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="session")
def environment(folder) -> dict[str, str]:
    cache = str(folder / "cache")
    return {**os.environ, "OMP_NUM_THREADS": "1", "LOUPE_CACHE": cache, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="session")
def comparison() -> list[str]:
    """Words of a comparison of two recipes on digits."""
    return WORDS


@pytest.fixture(scope="session")
def plain(folder, environment) -> Path:
    """Runs folder of the comparison in one process."""
    words = [sys.executable, "-m", "loupe", *WORDS, "--output", "plain"]
    subprocess.run(words, env=environment, cwd=folder, check=True, capture_output=True)
    return folder / "plain"


@pytest.fixture(scope="session")
def nodes(folder) -> Iterator[RayNodes]:
    """Cluster of one node with one CPU; a test adds another, and kills it."""
    with ray_nodes(folder / "cache") as started:
        started.start("first", cpus=1)
        yield started
