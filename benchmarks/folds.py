"""Are out-of-fold predictions better evidence than validation images, and does a refit gain? Six real sets, few images.

    python benchmarks/folds.py $LOUPE_DATA --work folds --write results

Of each set, some images are drawn for training and validation, anew for each seed, and others are fixed test images,
more than a user of so few images has: their accuracy is the truth that validation images and folds are to tell. Heads
on frozen features of lite0, without and with `refit`. Test accuracies of the two are compared in pairs, on the same
images. Runs that are finished are read from `--work`.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import loupe
from loupe.config.recipe import SplitSpec
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable
from loupe.evaluate.paired import Candidate, paired_difference
from loupe.evaluate.predictions import Predictions
from loupe.runs.run import Run
from setting import commit, machine

WEIGHTS = "tf_efficientnet_lite0.in1k.safetensors"
# Of each set: its folder or name, images for training and validation, images that these are drawn from, test images.
SETS = {
    "hand signs": ("sign_digits", 600, 800, 800),
    "magnetic tiles": ("magnetic_tiles", 600, 800, 544),
    "letters": ("letters", 600, 800, 800),
    "cats and dogs": ("cats_vs_dogs", 200, 300, 600),
    "digits": ("digits", 400, 600, 600),
    "CIFAR-10": ("cifar10", 600, 800, 800),
}
VALIDATION = 1 / 9  # of the images for training and validation, as a tenth of all images usually is
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the sets and of weights/")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, help="images for training and validation, in place of those of the set")
    parser.add_argument("--work", type=Path, default=Path("folds"), help="folder of the runs")
    parser.add_argument("--write", type=Path, help="folder of folds.csv")
    given = parser.parse_args()
    print(commit(), machine(torch.get_num_threads()), flush=True)
    datasets = {name: opened(given.data, name) for name in given.sets}
    runs: dict[str, list[tuple[Run, Run]]] = {name: [] for name in given.sets}
    for seed in range(given.seeds):  # so that an early end has all sets
        for name in given.sets:
            pair = tuple(trained(given, datasets[name], name, seed, refit=refit) for refit in (False, True))
            runs[name].append(pair)
            print(name, seed, *figures(*pair).values(), flush=True)
    rows = [{"set": name, "seed": seed, **figures(*pair)} for name in runs for seed, pair in enumerate(runs[name])]
    if given.write:
        with (given.write / "folds.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    print("\n".join(evidence_table(rows)), "\n".join(gain_table(runs)), sep="\n\n")


def opened(data: Path, name: str) -> Dataset:
    """The images of a set that are used: those of a fixed draw, test images last."""
    place, _, drawn_from, test = SETS[name]
    table = open_dataset(place if place == "digits" else str(data / place), announce=False).table
    labelled = np.flatnonzero(table.labels >= 0)
    chosen = np.random.default_rng(0).permutation(labelled)[: drawn_from + test]
    return Dataset(None, table.select(chosen))


def trained(given: argparse.Namespace, dataset: Dataset, name: str, seed: int, *, refit: bool) -> Run:
    """Finished run, trained unless it is there."""
    place, images, drawn_from, test = SETS[name]
    images, run_name = given.images or images, f"{place}-{seed}{'-refit' if refit else ''}"
    if (given.work / run_name / "results.json").is_file():
        return loupe.load(given.work / run_name)
    held_out = min(test, len(dataset.table) // 2)

    def split(table: ImageTable, content: Sequence[str], spec: SplitSpec, split_seed: int) -> Split:
        others = np.arange(len(table) - held_out)
        pool = np.random.default_rng([seed, 1]).permutation(others[: min(drawn_from, len(others))])[:images]
        validation = max(1, round(VALIDATION * len(pool)))
        return Split(np.sort(pool[validation:]), np.sort(pool[:validation]), np.arange(len(others), len(table)))

    return loupe.train(
        dataset,
        recipe="features",
        weights=given.data / "weights" / WEIGHTS,
        seed=seed,
        precision="fp32",
        refit=refit,
        split=split,
        output=given.work,
        name=run_name,
        device="cpu",
        quiet=True,
    )


def figures(plain: Run, refitted: Run) -> Row:
    """Accuracies with their intervals, and the seconds of the folds, of a run without and one with refit."""
    row: Row = {}
    of_run, of_refit = plain.results, refitted.results
    blocks = {"validation": of_run.validation, "folds": of_run.folds, "test": of_run.test}
    for name, block in {**blocks, "refit folds": of_refit.folds, "refit test": of_refit.test}.items():
        row |= {f"{name} images": block.images, name: block.accuracy.value}
        row |= {f"{name} low": block.accuracy.low, f"{name} high": block.accuracy.high}
    losses = {"log loss": of_run.test.log_loss.value, "refit log loss": of_refit.test.log_loss.value}
    return {**row, **losses, "folds seconds": of_run.seconds.folds, "refit seconds": of_refit.seconds.folds}


def evidence_table(rows: list[Row]) -> list[str]:
    """Mean width of the intervals, and distance to the test accuracy, in points, of validation images and folds."""
    lines = [
        "| set | images | test accuracy, % | width: validation | width: folds | error: validation | error: folds | "
        "bias of folds | seconds of folds |",
        "|---" * 9 + "|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        cells = [f"{np.mean([100 * row['test'] for row in of_set]):.1f}"]
        for kind in ("validation", "folds"):
            width = np.mean([100 * (row[f"{kind} high"] - row[f"{kind} low"]) for row in of_set])
            cells.append(f"{width:.1f}")
        for kind in ("validation", "folds"):
            apart = [100 * (row[kind] - row["test"]) for row in of_set]
            cells.append(f"{np.sqrt(np.mean(np.square(apart))):.1f}")
        cells.append(f"{np.mean(apart):+.1f}")
        cells.append(f"{np.median([row['folds seconds'] for row in of_set]):.1f}")
        lines.append(f"| {name} | {of_set[0]['folds images']:,} | " + " | ".join(cells) + " |")
    return lines


def gain_table(runs: dict[str, list[tuple[Run, Run]]]) -> list[str]:
    """Gain in test accuracy of the refit in points, paired by image, the seeds averaged for each image."""
    lines = ["| set | test images | without refit, % | with refit, % | gain, points | p |", "|---" * 6 + "|"]
    for name, pairs in runs.items():
        sides = [tuple(Predictions.read(pair[n].path / "predictions.csv", "test") for pair in pairs) for n in (0, 1)]
        found = paired_difference(Candidate("without", sides[0], None), Candidate("with", sides[1], None))
        before, after = (np.mean([100 * pair[n].results.test.accuracy.value for pair in pairs]) for n in (0, 1))
        gain = f"{100 * found.value:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
        lines.append(f"| {name} | {found.images:,} | {before:.1f} | {after:.1f} | {gain} | {found.p:.2g} |")
    return lines


if __name__ == "__main__":
    main()
