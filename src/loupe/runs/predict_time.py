"""Times of a prediction of several runs, measured by turns."""

import statistics
import time

import numpy as np

from loupe.runs.run import Run

REPEATS = 9  # timed predictions of each run


def predict_seconds(*runs: Run, repeats: int = REPEATS) -> tuple[float, ...]:
    """Median time of a prediction of one image by the engine of each run, from decoded pixels, taking turns."""
    times: list[list[float]] = [[] for _ in runs]
    pixels = [np.full((1, *run.preprocessing.load_size, run.preprocessing.channels), 127, np.uint8) for run in runs]
    for repeat in range(repeats + 1):
        for number, run in enumerate(runs):
            began = time.perf_counter()
            list(run.engine.run(iter([pixels[number]])))
            if repeat:  # the first prediction compiles
                times[number].append(time.perf_counter() - began)
    return tuple(statistics.median(of_run) for of_run in times)
