"""Price of shuffling within a window of shards against a full shuffle, in test accuracy on CIFAR-10.

    python benchmarks/shard_order.py $LOUPE_DATA --work shards

A part of CIFAR-10 is written as tars in the WebDataset layout: in random order, and sorted by class, which is the worst
case. A small network is trained on windows of 1, 4 and 16 shards and on a full shuffle, with several seeds for weights,
order and augmentation. The images and their validation split are the same in all trainings.
"""

import argparse
import io
import json
import statistics
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import loupe
from subsets import finished

ORDERS = ("shuffled", "sorted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cifar10")
    parser.add_argument("--work", type=Path, required=True, help="where shards and runs are kept")
    parser.add_argument("--images", type=int, default=6000, help="training images, a tenth of which validates")
    parser.add_argument("--test-images", type=int, default=5000)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 16], help="shards in a window")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--recipe", default="simple-cnn-quick")
    given = parser.parse_args()
    for order in ORDERS:
        write_shards(given, order)
    rows = []
    cases = [*[(order, window) for order in ORDERS for window in given.windows], ("shuffled", given.shards)]
    for order, window in cases:
        accuracies = [accuracy(given, order, window, seed) for seed in given.seeds]
        rows.append({"order": order, "window": window, "accuracies": accuracies})
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        shown = ", ".join(f"{100 * value:.1f}" for value in accuracies)
        name = "all" if window == given.shards else str(window)
        print(
            f"| {order} | {name} | {100 * statistics.mean(accuracies):.1f} ± {100 * spread:.1f} | {shown} |", flush=True
        )
    (given.work / "shard_order.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def accuracy(given: argparse.Namespace, order: str, window: int, seed: int) -> float:
    """Test accuracy of a training; one that is there already is not repeated."""
    name = f"{order}-{window}-{seed}"
    whole = window == given.shards
    per_shard = given.images * 0.9 / given.shards
    settings: dict[str, Any] = {
        "shuffle_window": "all" if whole else round(window * per_shard),
        "split.seed": 0,
        "split.validation": 0.1,
        "split.choose": "stratified",
    }
    run = finished(given.work, name) or loupe.train(
        given.work / order,
        recipe=given.recipe,
        epochs=given.epochs,
        seed=seed,
        precision="fp32",
        settings=settings,
        output=given.work,
        name=name,
        quiet=True,
    )
    assert run.results.test is not None
    return float(run.results.test.accuracy.value)


def write_shards(given: argparse.Namespace, order: str) -> None:
    """Write tars of training images, in an order, and one of test images."""
    folder = given.work / order
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    for split, images, shards in (("train", given.images, given.shards), ("test", given.test_images, 1)):
        (file,) = (given.data / "cifar10").glob(f"{split}-*.parquet")
        table = pq.read_table(file)
        chosen = np.sort(np.random.default_rng(0).permutation(len(table))[:images])
        rows = table.take(chosen).to_pylist()
        if split == "train" and order == "sorted":
            rows.sort(key=lambda row: row["label"])
        for number, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
            with tarfile.open(folder / f"{split}-{number:03}.tar", "w") as tar:
                for i in part.tolist():
                    image = next(value for value in rows[i].values() if isinstance(value, dict))["bytes"]
                    for name, data in ((f"{i:05}.jpg", image), (f"{i:05}.cls", str(rows[i]["label"]).encode())):
                        member = tarfile.TarInfo(name)
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main()
