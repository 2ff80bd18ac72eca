"""Grid search of scikit-learn over heads on frozen features: 5 folds x 10 penalties, with one worker and with several.

    python benchmarks/grid_search.py $LOUPE_DATA --rounds 3

Photographs of cats and dogs, by paths; the first fit computes the features of all images, which the searches share.
The workers are processes of joblib, started before they are timed, in turns.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold

import loupe
from setting import commit, machine

PENALTIES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds cats_vs_dogs and weights")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    paths = sorted((given.data / "cats_vs_dogs" / "train").glob("*/*"))
    labels = [path.parent.name for path in paths]
    weights = next((given.data / "weights").glob(f"{given.network}.*"))
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    with TemporaryDirectory() as cache:
        classifier = loupe.LoupeClassifier(model=given.network, weights=weights, cache=cache)
        found: dict[str, object] = {"commit": commit(), **machine(threads), "images": len(paths)}
        for name in ("first_fit_seconds", "second_fit_seconds"):
            began = time.perf_counter()
            classifier.fit(paths, labels)
            found[name] = time.perf_counter() - began
        seconds: dict[int, list[float]] = {jobs: [] for jobs in given.jobs}
        for number in range(given.rounds + 1):  # the first one starts the workers
            for jobs in given.jobs:
                grid = {"C": list(np.geomspace(1e-4, 10, PENALTIES))}
                folds = StratifiedKFold(5, shuffle=True, random_state=0)
                search = GridSearchCV(classifier, grid, cv=folds, refit=False, n_jobs=jobs)
                began = time.perf_counter()
                search.fit(paths, labels)
                if number:
                    seconds[jobs].append(time.perf_counter() - began)
        found["accuracy"] = search.cv_results_["mean_test_score"].tolist()
        found["search_seconds"] = seconds
        found["search_medians"] = {jobs: statistics.median(times) for jobs, times in seconds.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
