"""Are out-of-fold predictions better evidence than validation images, and does a refit gain? Six real sets, few images.

    python benchmarks/folds.py $LOUPE_DATA --work folds --write results

Of each set, some images are drawn for training and validation, anew for each seed, and others are fixed test images,
more than a user of so few images has: their accuracy is the truth that validation images and folds are to tell. Heads
on frozen features of lite0, without and with `refit`. Test accuracies of the two are compared in pairs, on the same
images. Figures that are there are read from `--work`.
"""

import argparse
import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loupe.cache import cache_folder
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.prepare import load_images
from loupe.data.splits.split import Split
from loupe.devices import StopSignal, choose_device
from loupe.evaluate import inference
from loupe.evaluate.estimate import wilson
from loupe.evaluate.paired import difference_of_hits
from loupe.models.classifier import Classifier
from loupe.recipes.resolve import resolve
from loupe.runs.folds import evaluate_by_folds
from loupe.runs.setup import set_up
from loupe.training.checkpoint import Checkpoints
from loupe.training.frozen import trunk_key
from loupe.training.loop import Trainer
from loupe.training.stage_data import StageData, StageDataBuilder
from setting import commit, machine

WEIGHTS = "tf_efficientnet_lite0.in1k.safetensors"
# Of each set: its folder or name, images for training and validation, images that these are drawn from, and test
# images, at most half of all.
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
    parser.add_argument("--work", type=Path, default=Path("folds"), help="folder of the hits of each head")
    parser.add_argument("--write", type=Path, help="folder of folds.csv")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print(commit(), machine(torch.get_num_threads()), flush=True)
    kept: dict[str, list[Row]] = {name: [] for name in given.sets}
    for seed in range(given.seeds):  # so that an early end has all sets
        for name in given.sets:
            path = given.work / f"{name} {seed}.npz".replace(" ", "_")
            if not path.exists():
                np.savez(path, **measured(given, name, seed))
            with np.load(path) as found:
                kept[name].append(dict(found))
            print(name, seed, *figures(kept[name][-1]).values(), flush=True)
    rows = [{"set": name, "seed": seed, **figures(row)} for name in kept for seed, row in enumerate(kept[name])]
    if given.write:
        with (given.write / "folds.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    print("\n".join(evidence_table(rows)), "\n".join(gain_table(kept)), sep="\n\n")


def opened(data: Path, name: str) -> Dataset:
    """The images of a set that are used: those of a fixed draw, test images last."""
    place, _, drawn_from, test = SETS[name]
    table = open_dataset(place if place == "digits" else str(data / place), announce=False).table
    labelled = np.flatnonzero(table.labels >= 0)
    chosen = np.random.default_rng(0).permutation(labelled)[: drawn_from + test]
    return Dataset(None, table.select(chosen))


def measured(given: argparse.Namespace, name: str, seed: int) -> Row:
    """Hits of a head without and one with refit, and of their folds; one seed of one set."""
    _, images, drawn_from, test = SETS[name]
    dataset = opened(given.data, name)
    held_out = min(test, len(dataset.table) // 2)
    others = len(dataset.table) - held_out
    pool = np.random.default_rng([seed, 1]).permutation(min(drawn_from, others))[: given.images or images]
    validation = max(1, round(VALIDATION * len(pool)))
    split = Split(np.sort(pool[validation:]), np.sort(pool[:validation]), np.arange(others, len(dataset.table)))
    flags = {"epochs": None, "batch_size": None, "lr": None, "seed": seed, "precision": "fp32"}
    weights = str(given.data / "weights" / WEIGHTS)
    recipe = resolve("features", dataset, model=None, weights=weights, flags=flags, extra={})
    loaded = load_images(dataset, recipe.preprocessing, cache=cache_folder())
    setup = set_up(recipe, loaded, split, choose_device("cpu"))

    def validate(network: Classifier, stage_data: StageData) -> Row:
        loader, first = stage_data.validation, stage_data.validation_first
        logits_VK = inference.logits(network, loader, split.val, setup.compute, first)
        return inference.scores(logits_VK, loaded.table.labels[split.val])

    def hits(rows_N: np.ndarray) -> np.ndarray:
        loader, first = builder.evaluation()
        logits_NK = inference.logits(setup.model, loader, rows_N, setup.compute, first)
        return logits_NK.argmax(1) == loaded.table.labels[rows_N]

    with tempfile.TemporaryDirectory() as folder, StopSignal() as stop:
        builder = StageDataBuilder(
            model=setup.model,
            network=trunk_key(setup.recipe.model),
            loader=setup.loader,
            content=loaded.content,
            train_N=split.train,
            test_N=split.test,
            seed=seed,
            folder=cache_folder() / "frozen",
            compute=setup.compute,
            frozen_compute=setup.frozen_compute,
            stop=stop,
            engines=setup.engines,
        )
        state = Trainer(
            setup.model,
            stages=setup.recipe.stages,
            prepare=builder.of,
            train_N=split.train,
            validate=validate,
            checkpoints=Checkpoints(Path(folder)),
            on_epoch=lambda history: None,
            compute=setup.compute,
            class_weights_K=None,
            monitor="val_loss",
            keep_best=True,
            stop=stop,
        ).fit()
        found: Row = {"validation": hits(split.val), "test": hits(split.test)}
        for prefix, refit in (("", False), ("refit ", True)):
            changed = replace(setup, recipe=setup.recipe.model_copy(update={"refit": refit}))
            folds = evaluate_by_folds(changed, builder, state, stop)
            assert folds is not None
            found[f"{prefix}folds"] = folds.logits_NK.argmax(1) == loaded.table.labels[folds.rows_N]
            found |= {f"{prefix}strength": folds.strength, f"{prefix}seconds": folds.seconds}
        return found | {"refit test": hits(split.test)}


def figures(kept: Row) -> Row:
    """Accuracies with their intervals, L2 strengths, and the seconds of the folds."""
    row: Row = {}
    for name in ("validation", "folds", "test", "refit folds", "refit test"):
        hits_N = kept[name]
        low, high = wilson(int(hits_N.sum()), len(hits_N))
        row |= {f"{name} images": len(hits_N), name: round(float(hits_N.mean()), 5)}
        row |= {f"{name} low": round(low, 5), f"{name} high": round(high, 5)}
    others = ("strength", "refit strength", "seconds", "refit seconds")
    return {**row, **{name: float(kept[name]) for name in others}}


def evidence_table(rows: list[Row]) -> list[str]:
    """Mean width of the intervals, and distance to the test accuracy, in points, of validation images and folds."""
    lines = [
        "| set | images | test accuracy, % | width: validation | width: folds | error: validation | error: folds | "
        "bias of folds | seconds |",
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
        cells.append(f"{np.median([row['seconds'] for row in of_set]):.1f}")
        lines.append(f"| {name} | {of_set[0]['folds images']:,} | " + " | ".join(cells) + " |")
    return lines


def gain_table(kept: dict[str, list[Row]]) -> list[str]:
    """Gain in test accuracy of the refit in points, paired by image, the seeds averaged for each image."""
    lines = ["| set | test images | without refit, % | with refit, % | gain, points | p |", "|---" * 6 + "|"]
    for name, rows in kept.items():
        hits = {
            "without": np.stack([row["test"] for row in rows]),
            "with": np.stack([row["refit test"] for row in rows]),
        }
        found = difference_of_hits("without", "with", hits)
        before, after = (100 * hits[side].mean() for side in ("without", "with"))
        gain = f"{100 * found.value:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
        lines.append(f"| {name} | {found.images:,} | {before:.1f} | {after:.1f} | {gain} | {found.p:.2g} |")
    return lines


if __name__ == "__main__":
    main()
