"""Times of a prediction of two runs, measured by turns."""

import statistics
import time

import numpy as np

from loupe.runs.run import Run

REPEATS = 9  # timed predictions of either side


def predict_seconds(first: Run, second: Run) -> tuple[float, float]:
    """Median times of a prediction of one image by the engines of two runs, from decoded pixels, taking turns."""
    runs = (first, second)
    times: tuple[list[float], list[float]] = ([], [])
    pixels = [np.full((1, *run.preprocessing.load_size, run.preprocessing.channels), 127, np.uint8) for run in runs]
    for repeat in range(REPEATS + 1):
        for number, run in enumerate(runs):
            began = time.perf_counter()
            list(run.engine.run(iter([pixels[number]])))
            if repeat:  # the first prediction compiles
                times[number].append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])
