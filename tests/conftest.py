"""What every test shares: a cache folder of its own, and the real data where it is there."""

import gc
import os
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from builders import without_slow_parts

pytest_plugins = ["dying_tests"]

# Weights are never fetched in a test.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("LOUPE_WEIGHTS", None)  # of a person, which would decide what the recipes are

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: threads of two processes that wait for each other are many times slower than one each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Load the tests without the collector of cycles: what is loaded stays to the end, so it need not walk over it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files without slow tests are not loaded where only those are run."""
    if config.option.markexpr == "slow" and collection_path.suffix == ".py":
        return "slow" not in collection_path.read_text(encoding="utf-8") or None
    return None


# Random examples are the same ones in each run.
settings.register_profile("loupe", derandomize=True, database=None)
settings.load_profile("loupe")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Nothing of a person's own cache is read, and nothing is left in it."""
    before = os.environ.get("LOUPE_CACHE")
    os.environ["LOUPE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["LOUPE_CACHE"]
    else:
        os.environ["LOUPE_CACHE"] = before


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk():
    """Nothing that a test writes has to survive a power failure: a call to sync checks its file, and waits for none."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True, scope="session")
def _read_once():
    """The digits, and the hash of the sources: hundreds of trainings would read each anew."""
    with pytest.MonkeyPatch.context() as patched:
        if (provenance := sys.modules.get("loupe.provenance")) is not None:
            of_sources, own = provenance.of_sources, provenance.SOURCES
            of_own = cache(lambda: of_sources(own))
            patched.setattr(provenance, "of_sources", lambda folder: of_own() if folder == own else of_sources(folder))
        if (datasets := sys.modules.get("sklearn.datasets._base")) is not None:
            digits = cache(datasets.load_gzip_compressed_csv_data)
            patched.setattr(datasets, "load_gzip_compressed_csv_data", lambda **given: deepcopy(digits(**given)))
        yield


@pytest.fixture(autouse=True, scope="module")
def _own_threads():
    """A run that is resumed or repeated takes as many threads as it had: the tests of the next file do not."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _own_draws():
    """Random numbers of a test without a seed of its own are the same in every run, whatever ran before it."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="module")
def bare():
    """Runs without report.html and without OpenVINO, in fp32 where the precision is left open.

    Figures, OpenVINO's compiler, the timing of precisions and the search for images that look like training images
    take most of the time of a tiny run, and have tests of their own.
    """
    with pytest.MonkeyPatch.context() as patched:
        without_slow_parts(patched)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and weights; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("LOUPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real images are absent: set LOUPE_DATA to their folder")
    return folder
