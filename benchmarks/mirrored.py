"""Do mirrored training images help, and does the probe of the orientation know? Six real sets.

    python benchmarks/mirrored.py $LOUPE_DATA --work mirrored --write results

The probe sees a part of the training images (`loupe/recipes/orientation.py`). Networks from random weights then learn
from so many images of each set, with and without horizontal flips, with the same seeds, and are judged by the
validation images; test images stay locked. A linear head on frozen features of lite0 learns from the same images, which
tells whether small images need features at all. Runs that are finished are read from `--work`.
"""

import argparse
import csv
import os
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import loupe
from loupe.data.dataset import open_dataset
from loupe.recipes.orientation import Orientation, orientation
from setting import commit, machine

WEIGHTS = "tf_efficientnet_lite0.in1k.safetensors"
# Of each set: its folder or name, and the recipe from random weights.
SETS = {
    "digits": ("digits", "small-images"),
    "letters": ("letters", "small-images"),
    "hand signs": ("sign_digits", "photographs"),
    "hand signs, 32 px": ("sign_digits", "small-images"),
    "CIFAR-10": ("cifar10", "small-images"),
    "cats and dogs": ("cats_vs_dogs", "photographs"),
    "magnetic tiles": ("magnetic_tiles", "photographs"),
}
SIDES_PX = {"hand signs, 32 px": 32}  # sets of reduced images
VALIDATION = 500
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the sets and of weights/")
    parser.add_argument("--sets", nargs="*", default=[*SETS], choices=[*SETS])
    parser.add_argument("--images", type=int, nargs="*", default=[500], help="training images of the trainings")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=15, help="of small-images; photographs have twice as many")
    parser.add_argument("--probe-alone", action="store_true", help="no trainings")
    parser.add_argument("--features", action="store_true", help="also train heads on features of lite0")
    parser.add_argument("--work", type=Path, default=Path("mirrored"))
    parser.add_argument("--write", type=Path, help="folder of mirrored.md and mirrored.csv")
    given = parser.parse_args()
    rows = [row for name in given.sets for row in measured(name, given)]
    print(table(rows))
    if given.write:
        write(rows, given.write)


def reduced(source: Path, target: Path, side: int) -> Path:
    """Folder of the same images in another size, as PNG files, which is written unless it is there."""
    if not target.is_dir():
        draft = target.with_name(f"{target.name}.draft")
        for file in sorted(file for file in source.rglob("*") if file.suffix.lower() in {".jpg", ".jpeg", ".png"}):
            place = draft / file.relative_to(source).with_suffix(".png")
            place.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(file) as image:
                image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(place)
        draft.rename(target)
    return target


def probe(data: str) -> Orientation | None:
    """Probe of a part of the images that are not given as test images."""
    dataset = open_dataset(data, announce=False)
    given_test = np.array([split == "test" for split in dataset.table.splits])
    return orientation(dataset.table, dataset.hashes, np.flatnonzero(~given_test & (dataset.table.labels >= 0)))


def measured(name: str, given: argparse.Namespace) -> list[Row]:
    """Rows of one set: one for each number of training images."""
    place, recipe = SETS[name]
    data = place if place == "digits" else str(given.data / place)
    if name in SIDES_PX:
        data = str(reduced(Path(data), given.work / f"{place}-{SIDES_PX[name]}px", SIDES_PX[name]))
    found = probe(data)
    of_probe = {} if found is None else {
        "recognised": found.accuracy,
        "mirrored minus": found.difference,
        "low": found.low,
        "high": found.high,
        "says": {True: "left out", False: "taken", None: "cannot tell"}[found.tells_classes],
    }  # fmt: skip
    if given.probe_alone:
        return [{"set": name, **of_probe}]
    rows = []
    for images in given.images:
        row: Row = {"set": name, **of_probe, "images": images}
        for flips in (False, True):
            number = given.epochs if recipe == "small-images" else 2 * given.epochs
            settings = {"stages.0.augment.horizontal_flip": flips, "stages.0.epochs": number}
            key = "with flips" if flips else "without"
            row[key] = [accuracy(given, data, recipe, images, seed, settings) for seed in given.seeds]
        if given.features:
            weights = {"model.weights": str(given.data / "weights" / WEIGHTS)}
            row["features"] = [accuracy(given, data, "features", images, seed, weights) for seed in given.seeds]
        rows.append(row)
    return rows


def accuracy(
    given: argparse.Namespace, data: str, recipe: str, images: int, seed: int, settings: dict[str, Any]
) -> float:
    """Validation accuracy of a run, which is trained unless it is there."""
    flips = settings.get("stages.0.augment.horizontal_flip", "")
    run_name = f"{Path(data).name}-{recipe}-{images}-{flips}-seed{seed}"
    if not (given.work / run_name / "results.json").is_file():
        common = {"split.train": images, "split.validation": VALIDATION, "split.test": 0}
        loupe.train(
            data,
            recipe=recipe,
            seed=seed,
            settings={**common, **settings},
            output=given.work,
            name=run_name,
            open_test=False,
            quiet=True,
        )
    found = loupe.load(given.work / run_name).results.validation
    assert found is not None
    return found.accuracy.value


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table, in percent and points."""
    lines = [
        "| set | recognised as they are, % | mirrored minus as they are | the probe says | training images | without "
        "flips, % | with flips, % | flips gain | features of lite0, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        probed = ("-", "-", "-")
        if "says" in row:
            low, high = 100 * row["low"], 100 * row["high"]
            probed = (
                f"{100 * row['recognised']:.0f}",
                f"{100 * row['mirrored minus']:+.1f} ({low:+.1f} to {high:+.1f})",
                row["says"],
            )
        trained = ["-"] * 5
        if "without" in row:
            gain = statistics.mean(row["with flips"]) - statistics.mean(row["without"])
            trained = [str(row["images"]), shown(row["without"]), shown(row["with flips"]), f"{100 * gain:+.1f}"]
            trained.append(shown(row["features"]) if "features" in row else "-")
        lines.append("| " + " | ".join([row["set"], *probed, *trained]) + " |")
    return "\n".join(lines)


def shown(values: list[float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in values)


def write(rows: list[Row], folder: Path) -> None:
    """Write the table, and the figures for reading again."""
    here, command = machine(os.cpu_count() or 1), shlex.join(sys.argv[2:])
    text = (
        f"# Mirrored training images\n\n`python benchmarks/mirrored.py $LOUPE_DATA {command}`, commit "
        f"{commit()}, {here['processor']}, {here['cores']} cores. Validation accuracy of each seed.\n\n{table(rows)}\n"
    )
    (folder / "mirrored.md").write_text(text, encoding="utf-8")
    with (folder / "mirrored.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
