"""A simulated GPU for the tests of this folder."""

from collections.abc import Iterator

import pytest

from simulated_gpu import SimulatedGpu, simulated_gpu


@pytest.fixture
def simulated() -> Iterator[SimulatedGpu]:
    with simulated_gpu() as gpu:
        yield gpu
