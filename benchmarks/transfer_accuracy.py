"""What each part of transfer learning gives, on real images with real weights: stages, augmented views, few images.

    python benchmarks/transfer_accuracy.py $LOUPE_DATA --work transfer stages views few

Runs are kept under --work, and those that are there already are not trained again. Every choice is made on validation
images; the differences are between runs on the same test images, with the 95 % interval of a paired bootstrap.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import loupe
from subsets import cifar_subset, few, finished, paired_difference, percent

FILE = "tf_efficientnet_lite0.in1k.safetensors"
SEEDS = (0, 1, 2)
CIFAR_PX = 96
LAST_BLOCK_EPOCHS = 16
FEW = (10, 50, 200, 1000)
SMALL = (50, 500, 1000, 2000)
# From scratch, a run on few images needs more passes over them.
SCRATCH_EPOCHS = {10: 60, 50: 60, 200: 24, 1000: 12}
Row = dict[str, Any]


class Bench:
    """Trains what is missing, and says what came out."""

    def __init__(self, data: Path, work: Path, seeds: int) -> None:
        self.source = data
        self.photographs = data / "cats_vs_dogs"
        self.weights = str(data / "weights" / FILE)
        self.cifar = cifar_subset(data / "cifar10", work / "cifar10", train=200, test=200)
        self.work = work
        self.seeds = seeds

    def run(self, name: str, data: Path, recipe: str, **options: Any) -> loupe.Run:
        done = finished(self.work, name)
        return done or loupe.train(data, recipe=recipe, output=self.work, name=name, quiet=True, **options)

    def transfer(self, name: str, data: Path, recipe: str, **options: Any) -> loupe.Run:
        return self.run(name, data, recipe, weights=self.weights, **options)


def stages(bench: Bench) -> Iterable[Row]:
    """The four recipes on CIFAR-10 at 96 px and on photographs, 200 training images of each class."""
    cifar = {"input.size_px": CIFAR_PX, "input.load_px": CIFAR_PX}
    sets: dict[str, tuple[Path, dict[str, Any]]] = {
        "cifar": (bench.cifar, {"settings": cifar}),
        "photographs": (bench.photographs, {"split": few(200, 200)}),
    }
    for label, (data, options) in sets.items():
        frozen = None
        for recipe in ("features", "features-augment", "last-block", "finetune"):
            run = bench.transfer(f"stages-{label}-{recipe}", data, recipe, **options)
            frozen = frozen or run
            yield {
                "data": label,
                "recipe": recipe,
                **outcome(run),
                "against_features": paired_difference((run, frozen)),
            }


def seeds(bench: Bench) -> Iterable[Row]:
    """The last block against the head alone on CIFAR-10 at 96 px, by seeds, which split and train otherwise."""
    settings = {"input.size_px": CIFAR_PX, "input.load_px": CIFAR_PX}
    pairs = []
    for seed in range(bench.seeds):
        options = {"settings": settings, "seed": seed}
        frozen = bench.transfer(f"seeds-features-{seed}", bench.cifar, "features", **options)
        run = bench.transfer(f"seeds-last-block-{seed}", bench.cifar, "last-block", **options)
        pairs.append((run, frozen))
        yield {"seed": seed, "recipe": "features", **outcome(frozen)}
        yield {"seed": seed, "recipe": "last-block", **outcome(run), "against_features": paired_difference(pairs[-1])}
    yield {"seed": "all", "against_features": paired_difference(*pairs)}


def views(bench: Bench) -> Iterable[Row]:
    """A head on photographs, with one view of each image, the default four, and a new one in every epoch; 0: none."""
    for seed in SEEDS:
        options: dict[str, Any] = {"seed": seed, "split": few(50, 50)}
        run = bench.transfer(f"views-photographs-plain-{seed}", bench.photographs, "features", **options)
        yield {"data": "photographs", "views": 0, "seed": seed, **outcome(run)}
        for count in (1, 4, 30):
            settings = {"stages.0.epochs": 30, "stages.0.views": count}
            name = f"views-photographs-{count}-{seed}"
            run = bench.transfer(name, bench.photographs, "features-augment", settings=settings, **options)
            yield {"data": "photographs", "views": count, "seed": seed, **outcome(run)}


def last_block_views(bench: Bench) -> Iterable[Row]:
    """The same for the last block, on 50 images of each class of CIFAR-10, which learns from them step by step."""
    pixels = {"input.size_px": CIFAR_PX, "input.load_px": CIFAR_PX, "stages.1.epochs": LAST_BLOCK_EPOCHS}
    for seed in SEEDS:
        options = {"seed": seed, "split": few(50, 20)}
        plain = {"stages.1.augment.random_resized_crop": None, "stages.1.augment.horizontal_flip": False}
        for count in (0, 1, 4, LAST_BLOCK_EPOCHS):
            settings = pixels | ({"stages.1.views": count} if count else plain)
            run = bench.transfer(
                f"views-last-block-{count}-{seed}", bench.cifar, "last-block", settings=settings, **options
            )
            yield {"data": "cifar, last block", "views": count, "seed": seed, **outcome(run)}


def few_images(bench: Bench) -> Iterable[Row]:
    """Photographs: so many of each class to learn from, and as many (400 at most) to choose on."""
    for count in FEW:
        part = few(count, min(count, 400))
        for recipe in ("features", "features-augment"):
            run = bench.transfer(f"few-{recipe}-{count}", bench.photographs, recipe, split=part)
            yield {"images": count, "recipe": recipe, **outcome(run)}
        run = bench.run(
            f"few-catsdogs-cnn-quick-{count}",
            bench.photographs,
            "catsdogs-cnn-quick",
            split=part,
            settings={"stages.0.epochs": SCRATCH_EPOCHS[count]},
        )
        yield {"images": count, "recipe": "catsdogs-cnn-quick", **outcome(run)}


def small_images(bench: Bench) -> Iterable[Row]:
    """CIFAR-10, so many of each class: frozen features of enlarged images against a network from scratch."""
    for count in SMALL:
        data = cifar_subset(bench.source / "cifar10", bench.work / f"cifar10-{count}", train=count, test=200)
        part = few(count - count // 10, count // 10)
        frozen = bench.transfer(f"small-features-{count}", data, "features", split=part)
        yield {"images": count, "recipe": "features", **outcome(frozen)}
        epochs = {"stages.0.epochs": 60} if count == 50 else {}
        run = bench.run(f"small-scratch-{count}", data, "small-images", split=part, settings=epochs)
        row = {"images": count, "recipe": "small-images", **outcome(run)}
        yield row | {"against_features": paired_difference((run, frozen))}


def outcome(run: loupe.Run) -> Row:
    accuracies = {split: block.accuracy.to_json() for split, block in run.results.splits.items()}
    return {**accuracies, "seconds": run.results.seconds.total}


def draw_few(rows: Iterable[Row], path: Path) -> None:
    """Test accuracy against the number of images of each class, a line for each recipe, with 95 % intervals."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        points = [row for row in rows if row["recipe"] == recipe]
        at, test = [row["images"] for row in points], [row["test"] for row in points]
        value = [100 * estimate["value"] for estimate in test]
        below = [100 * (estimate["value"] - estimate["low"]) for estimate in test]
        above = [100 * (estimate["high"] - estimate["value"]) for estimate in test]
        axes.errorbar(at, value, (below, above), marker="o", capsize=3, label=recipe)
    axes.set(xscale="log", xlabel="training photographs of each class", ylabel="test accuracy, %", ylim=(45, 101))
    axes.set_xticks(FEW, [f"{count:,}" for count in FEW], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


PARTS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "stages": stages,
    "seeds": seeds,
    "views": views,
    "last-block-views": last_block_views,
    "few": few_images,
    "small": small_images,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cats_vs_dogs, cifar10 and weights")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds of the part of that name")
    given = parser.parse_args()
    bench = Bench(given.data, given.work, given.seeds)
    for part in given.parts:
        rows = []
        for row in PARTS[part](bench):
            rows.append(row)
            said = {name: percent(value) if isinstance(value, dict) else value for name, value in row.items()}
            print(part, said, flush=True)
        if part == "few":
            draw_few(rows, given.work / "few_images.png")
        (given.work / f"{part}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
