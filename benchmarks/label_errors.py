"""Are wrong labels found, and what is leaving them out worth? On real images with labels made wrong by hand.

    python benchmarks/label_errors.py $LOUPE_DATA --work label_errors

Photographs of cats and dogs, and a part of CIFAR-10 (200 training and 200 test images of each class, at 96 px). Of the
labels of train and validation a share is made wrong, each one another class with equal chance; the test labels are left
as they are. `check_labels` says which labels look wrong: precision and recall are of the labels made wrong. Then the
recipe `features` learns from all labels, from those without the suspects (of train; validation keeps them, as in
kept.csv), and from the labels as they were; all are judged by the same test images. Runs that are there already are not
trained again.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.metrics import roc_auc_score

import loupe
from loupe.console import Console
from loupe.data.sources import open_table
from loupe.data.split import Split, assign
from loupe.data.table import ImageTable
from loupe.evaluate.metrics import wilson
from loupe.label_check import LabelReport, check_labels
from loupe.recipe import SplitSpec
from setting import commit, machine
from subsets import cifar_subset, paired_difference

FILE = "tf_efficientnet_lite0.in1k.safetensors"
SEEDS = (0, 1, 2)
RATES = {"photographs": (0.05, 0.2), "CIFAR-10": (0.05, 0.2)}
Row = dict[str, Any]
Splitter = Callable[[ImageTable, Sequence[str], SplitSpec, int], Split]


def mislabelled(table: ImageTable, rows_N: np.ndarray, rate: float, seed: int) -> tuple[ImageTable, np.ndarray]:
    """The table with that share of these rows' labels made another class, and the rows where they were."""
    generator = np.random.default_rng(seed)
    wrong_M = np.sort(generator.choice(rows_N, round(rate * len(rows_N)), replace=False))
    labels_N = table.labels.copy()
    labels_N[wrong_M] += generator.integers(1, len(table.classes), len(wrong_M))
    column = pa.array(labels_N % len(table.classes), pa.int64())
    at = table.rows.schema.get_field_index("label")
    return replace(table, rows=table.rows.set_column(at, "label", column)), wrong_M


def divided(split: Split, left_out: set[int]) -> Splitter:
    """The split as it is, without some of the training images."""
    train = np.array([row for row in split.train.tolist() if row not in left_out], np.int64)
    return lambda table, content, spec, seed: Split(train, split.val, split.test)


def found(report: LabelReport, wrong_M: np.ndarray) -> Row:
    """Precision and recall of the suspects, each with its interval, and the area under the ROC curve of the scores."""
    suspects, wrong = set(report.suspect_rows), set(wrong_M.tolist())
    hits = len(suspects & wrong)
    is_wrong_N = np.isin(report.rows_N, wrong_M)
    return {
        "wrong": len(wrong),
        "suspects": len(suspects),
        "found": hits,
        "precision": share(hits, len(suspects)),
        "recall": share(hits, len(wrong)),
        "auc": float(roc_auc_score(is_wrong_N, -report.quality_N)),
        "effect": report.effect,
    }


def share(part: int, whole: int) -> dict[str, float]:
    low, high = wilson(part, whole) if whole else (0.0, 1.0)
    return {"value": part / whole if whole else float("nan"), "low": low, "high": high}


def rows(name: str, table: ImageTable, weights: str, size_px: int | None, work: Path) -> Iterable[Row]:
    """One for each share of wrong labels and seed."""
    extra = {} if size_px is None else {"input.size_px": size_px}
    content = [str(row) for row in range(len(table))]  # only the splits that are carved depend on it
    split = assign(table, content, SplitSpec(), 0)
    pool = np.sort(np.concatenate([split.train, split.val]))

    def run(kind: str, images: ImageTable, left_out: set[int]) -> loupe.Run:
        place = work / f"{name}-{kind}"
        if (place / "results.json").exists():
            return loupe.load(place)
        return loupe.train(
            images,
            recipe="features",
            weights=weights,
            settings=extra,
            split=divided(split, left_out),
            output=work,
            name=place.name,
            quiet=True,
        )

    clean = run("clean", table, set())
    for rate in RATES[name]:
        for seed in SEEDS:
            noisy, wrong_M = mislabelled(table, pool, rate, seed)
            given = replace(noisy, rows=_with_splits(noisy, split))
            report = check_labels(given, weights=weights, size_px=size_px, quiet=True)
            left_out = set(report.suspect_rows)
            key = f"{round(100 * rate)}-{seed}"
            all_labels, without = run(f"all-{key}", noisy, set()), run(f"without-{key}", noisy, left_out)
            yield {
                "data": name,
                "rate": rate,
                "seed": seed,
                **found(report, wrong_M),
                "test": {kind: accuracy(which) for kind, which in _named(all_labels, without, clean)},
                "without_against_all": paired_difference(without, all_labels),
                "clean_against_without": paired_difference(clean, without),
            }


def _named(*runs: loupe.Run) -> Iterable[tuple[str, loupe.Run]]:
    return zip(("all", "without", "clean"), runs, strict=True)


def _with_splits(table: ImageTable, split: Split) -> pa.Table:
    """The rows with the splits written out, so that the labels examined are those that are trained on."""
    names = np.full(len(table), "train", object)
    names[split.val], names[split.test] = "val", "test"
    at = table.rows.schema.get_field_index("split")
    return table.rows.set_column(at, "split", pa.array(names.tolist(), pa.string()))


def accuracy(run: loupe.Run) -> dict[str, float]:
    estimate = run.results["test"]["accuracy"]
    return {key: estimate[key] for key in ("value", "low", "high")}


def shown(estimate: dict[str, float], decimals: int = 1) -> str:
    value, low, high = (f"{100 * estimate[key]:.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def line(row: Row) -> str:
    """One row of the Markdown table."""
    cells = [
        f"{row['data']}, {100 * row['rate']:.0f} %",
        str(row["seed"]),
        f"{row['wrong']} / {row['suspects']} / {row['found']}",
        shown(row["precision"]),
        shown(row["recall"]),
        f"{row['auc']:.3f}",
        *(shown(row["test"][kind]) for kind in ("all", "without", "clean")),
        shown(row["without_against_all"]),
        shown(row["effect"]["all"]["difference"]),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cats_vs_dogs, cifar10 and weights")
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    given = parser.parse_args()
    weights = str(given.data / "weights" / FILE)
    console = Console(quiet=True)
    cifar = cifar_subset(given.data / "cifar10", given.work / "cifar10", train=200, test=200)
    tables = {
        "photographs": (open_table(given.data / "cats_vs_dogs", console=console), None),
        "CIFAR-10": (open_table(cifar, console=console), 96),
    }
    print(commit(), machine(0), flush=True)
    done = []
    for name, (table, size_px) in tables.items():
        for row in rows(name, table, weights, size_px, given.work):
            done.append(row)
            print(line(row), flush=True)
            (given.work / "label_errors.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
