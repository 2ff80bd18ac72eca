"""Are wrong labels found, and what is leaving them out worth? On real images with labels made wrong by hand.

    python benchmarks/label_errors.py $LOUPE_DATA --work label_errors

Photographs of cats and dogs at 224 px, and a part of CIFAR-10 (200 training and 200 test images of each class) at 96
px. Of the labels of train and validation a share is made wrong, each one another class with equal chance; the test
labels are left as they are. `check_labels` says which labels look wrong: precision and recall are of the labels made
wrong. Then a head on the same features learns from all training labels, from those without the suspects (validation
keeps them, as in kept.csv), and from the labels as they were; validation, with its wrong labels but for the last,
chooses the penalty. All three are judged by the same test images.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from loupe.cache import cache_folder
from loupe.config.recipe import SplitSpec
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import load_images
from loupe.data.sources.open import open_table
from loupe.data.splits.split import Split, assign
from loupe.data.table import ImageTable
from loupe.evaluate.estimate import wilson
from loupe.labels import find
from loupe.labels.confident import paired_accuracy
from loupe.labels.cross_fit import STRENGTHS
from loupe.labels.find import LabelOptions, LabelReport, check_labels
from loupe.training.features import features
from setting import commit, machine
from subsets import cifar_subset

FILE = "tf_efficientnet_lite0.in1k.safetensors"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cats_vs_dogs, cifar10 and weights")
    parser.add_argument("--work", type=Path, required=True, help="where results and the part of CIFAR-10 are kept")
    parser.add_argument("--sets", nargs="+", choices=("photographs", "CIFAR-10"), default=("photographs", "CIFAR-10"))
    parser.add_argument("--rates", nargs="+", type=float, default=(0.05, 0.2), help="shares of labels made wrong")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    weights = str(given.data / "weights" / FILE)
    print(commit(), machine(torch.get_num_threads()), flush=True)
    for name in given.sets:
        cifar = name == "CIFAR-10"
        source = (
            cifar_subset(given.data / "cifar10", given.work / "cifar10", train=200, test=200)
            if cifar
            else given.data / "cats_vs_dogs"
        )
        done = []
        for row in rows(open_table(source), weights, 96 if cifar else None, given.rates, given.seeds):
            done.append({"data": name, **row})
            print(line(done[-1]), flush=True)
            (given.work / f"{name}.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


def rows(table: ImageTable, weights: str, size_px: int | None, rates: Iterable[float], seeds: int) -> Iterable[Row]:
    """One for each share of wrong labels and seed."""
    split = assign(table, [str(row) for row in range(len(table))], SplitSpec(), 0)
    pool = np.sort(np.concatenate([split.train, split.val]))
    features_NC = _features(table, weights, size_px)
    clean_N = solved(features_NC, table.labels, split.train, split)
    for rate in rates:
        for seed in range(seeds):
            noisy, wrong_M = mislabelled(table, pool, rate, seed)
            given = replace(noisy, rows=_with_splits(noisy, split))
            report = check_labels(given, LabelOptions(weights=weights, size_px=size_px), quiet=True)
            kept = np.setdiff1d(split.train, report.suspect_rows)
            all_N = solved(features_NC, noisy.labels, split.train, split)
            without_N = solved(features_NC, noisy.labels, kept, split)
            yield {
                **{"rate": rate, "seed": seed, **found(report, wrong_M)},
                "test": paired_accuracy(all_N, without_N).to_json(),
                "clean": paired_accuracy(without_N, clean_N).to_json(),
            }


def mislabelled(table: ImageTable, rows_N: np.ndarray, rate: float, seed: int) -> tuple[ImageTable, np.ndarray]:
    """The table with that share of these rows' labels made another class, and the rows where they were."""
    generator = np.random.default_rng(seed)
    wrong_M = np.sort(generator.choice(rows_N, round(rate * len(rows_N)), replace=False))
    labels_N = table.labels.copy()
    labels_N[wrong_M] += generator.integers(1, len(table.classes), len(wrong_M))
    column = pa.array(labels_N % len(table.classes), pa.int64())
    at = table.rows.schema.get_field_index("label")
    return replace(table, rows=table.rows.set_column(at, "label", column)), wrong_M


def found(report: LabelReport, wrong_M: np.ndarray) -> Row:
    """Precision and recall of the suspects, each with its interval, and the area under the ROC curve of the scores."""
    suspects, wrong = set(report.suspect_rows), set(wrong_M.tolist())
    hits = len(suspects & wrong)
    return {
        "wrong": len(wrong),
        "suspects": len(suspects),
        "found": hits,
        "precision": share(hits, len(suspects)),
        "recall": share(hits, len(wrong)),
        "auc": float(roc_auc_score(np.isin(report.rows_N, wrong_M), -report.quality_N)),
        "effect": report.effect.to_json(),
    }


def solved(features_NC: np.ndarray, label_N: np.ndarray, rows_N: np.ndarray, split: Split) -> np.ndarray:
    """Which test images a head gets right that learned from these rows; validation chose its penalty."""
    best, least, head = None, np.inf, LogisticRegression(max_iter=1000, warm_start=True)
    for penalty in STRENGTHS:
        head.set_params(C=1 / penalty).fit(features_NC[rows_N], label_N[rows_N])
        loss = log_loss(label_N[split.val], head.predict_proba(features_NC[split.val]), labels=head.classes_)
        if loss < least:
            least, best = loss, head.predict(features_NC[split.test]) == label_N[split.test]
    assert best is not None
    return np.asarray(best)


def _features(table: ImageTable, weights: str, size_px: int | None) -> np.ndarray:
    dataset = Dataset(None, table)
    recipe, network = find.recipe_for(dataset, None, weights, size_px, 0)
    preprocessing = recipe.preprocessing
    images = load_images(dataset, preprocessing, cache=cache_folder())
    folder = cache_folder() / "frozen"
    return features(network, preprocessing, images, device=torch.device("cpu"), folder=folder)


def _with_splits(table: ImageTable, split: Split) -> pa.Table:
    """The rows with the splits written out, so that the labels examined are those that are trained on."""
    names = np.full(len(table), "train", object)
    names[split.val], names[split.test] = "val", "test"
    at = table.rows.schema.get_field_index("split")
    return table.rows.set_column(at, "split", pa.array(names.tolist(), pa.string()))


def share(part: int, whole: int) -> dict[str, float]:
    low, high = wilson(part, whole) if whole else (0.0, 1.0)
    return {"value": part / whole if whole else float("nan"), "low": low, "high": high}


def shown(estimate: dict[str, float]) -> str:
    value, low, high = (f"{100 * estimate[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def line(row: Row) -> str:
    """One row of the Markdown table."""
    cells = [
        f"{row['data']}, {100 * row['rate']:.0f} %, seed {row['seed']}",
        f"{row['wrong']} / {row['suspects']} / {row['found']}",
        shown(row["precision"]),
        shown(row["recall"]),
        f"{row['auc']:.3f}",
        *(shown(row["test"][kind]) for kind in ("with", "without")),
        shown(row["clean"]["without"]),
        shown(row["test"]["difference"]),
        shown(row["effect"]["all"]["difference"]),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
