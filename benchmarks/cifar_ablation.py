"""Why frozen MobileNet scored 12 to 22 % on CIFAR-10 in the documents: each suspect alone, then all put right.

    python benchmarks/cifar_ablation.py $LOUPE_DATA --work ablation

On a part of CIFAR-10: 500 training and 200 test images of each class; of the training images a tenth chooses the
penalty or the epoch. A linear head is solved on frozen features, with the pixels as the row says. `batch statistics`:
what Keras's frozen BatchNorm did when told that it trains, on batches of 30: the head learns on features normalised by
each batch, and is used on features normalised by the statistics that came with the weights. Two rows train the whole
network at a small size. Runs that are there already are not trained again.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

import loupe
from loupe.evaluate.estimate import wilson
from subsets import cifar_subset, finished, percent

WEIGHTS = {
    "mobilenetv1_075": "mobilenetv1_075.keras_in1k.safetensors",
    "tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k.safetensors",
}
TRAIN, TEST, BATCH = 500, 200, 30
UNIT = {"input.normalise": "unit"}


def pixels(side: int, **more: Any) -> dict[str, Any]:
    return {"input.size_px": side, "input.load_px": side, **more}


FROZEN: dict[str, dict[str, Any]] = {
    "the document's: 32 px, [0, 1]": pixels(32) | UNIT,
    "range alone: 32 px, [-1, 1]": pixels(32),
    "size alone: 96 px, [0, 1]": pixels(96) | UNIT,
    "range and size: 96 px, [-1, 1]": pixels(96),
    "range and size: 160 px, [-1, 1]": pixels(160),
}
WHOLE = {"everything learns, 32 px, [-1, 1]": pixels(32), "everything learns, 64 px, [-1, 1]": pixels(64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cifar10 and weights")
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--models", nargs="+", choices=WEIGHTS, default=tuple(WEIGHTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=(32, 64, 96, 160), help="sides in pixels of the rows")
    given = parser.parse_args()
    subset = cifar_subset(given.data / "cifar10", given.work / "cifar10", train=TRAIN, test=TEST)
    rows = []
    for model in given.models:
        weights = given.data / "weights" / WEIGHTS[model]
        for recipe, settings in (("features", FROZEN), ("finetune", WHOLE)):
            for title, pixels_of_it in settings.items():
                if pixels_of_it["input.size_px"] not in given.sizes:
                    continue
                name = f"{model}-{recipe}-{'-'.join(str(value) for value in pixels_of_it.values())}"
                run = finished(given.work, name) or loupe.train(
                    subset,
                    recipe=recipe,
                    model=model,
                    weights=str(weights),
                    settings=pixels_of_it,
                    output=given.work,
                    name=name,
                    quiet=True,
                )
                rows.append(show(model, title, *accuracies(run)))
                if title.startswith("the document's"):
                    rows += [show(model, *row) for row in batch_statistics(run, subset)]
    (given.work / "cifar_ablation.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def accuracies(run: loupe.Run) -> list[dict[str, float]]:
    """Of validation and test, with their intervals."""
    return [block.accuracy.to_json() for block in run.results.splits.values()]


def show(model: str, title: str, validation: dict[str, float], test: dict[str, float]) -> dict[str, Any]:
    print(f"| {model} | {title} | {percent(validation)} | {percent(test)} |", flush=True)
    keys = ("value", "low", "high")
    return {
        "model": model,
        "setting": title,
        "validation": {key: validation[key] for key in keys},
        "test": {key: test[key] for key in keys},
    }


def batch_statistics(run: loupe.Run, subset: Path) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    """The document's setting with batch statistics while the head learns: accuracy on training batches, and on test."""
    network = run.model.trunk
    x_train, y_train = images(subset, "train")
    x_test, y_test = images(subset, "test")
    order = np.random.default_rng(0).permutation(len(y_train))
    x_train, y_train = x_train[order], y_train[order]
    held = len(y_train) // 10
    network.train()
    learning = features(network, x_train)
    network.eval()
    used, tested = features(network, x_train[:held]), features(network, x_test)
    heads = [
        LogisticRegression(C=1 / strength, max_iter=2000).fit(learning[held:], y_train[held:])
        for strength in np.geomspace(1e4, 1e-1, 11)
    ]
    head = max(heads, key=lambda candidate: float(candidate.score(used, y_train[:held])))
    seen = estimate(head.predict(learning[:held]), y_train[:held])
    yield (
        "the document's with batch statistics (in place of validation: unseen images, normalised by their batch)",
        seen,
        estimate(head.predict(tested), y_test),
    )


def images(subset: Path, part: str) -> tuple[torch.Tensor, np.ndarray]:
    """Pixels in [0, 1], [N, 3, 32, 32], and labels."""
    table = pq.read_table(next(subset.glob(f"{part}-*.parquet")))
    decoded = [np.array(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table.column("img").to_pylist()]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255, table.column("label").to_numpy()


@torch.no_grad()
def features(network: torch.nn.Module, x_NCHW: torch.Tensor) -> np.ndarray:
    """In batches, as Keras makes them; with statistics that nothing here changes."""
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    made = np.concatenate([network(x_BCHW).float().numpy() for x_BCHW in x_NCHW.split(BATCH) if len(x_BCHW) > 1])
    network.load_state_dict(kept)
    return made


def estimate(predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
    hits = int((predicted == label).sum())
    low, high = wilson(hits, len(label))
    return {"value": hits / len(label), "low": low, "high": high}


if __name__ == "__main__":
    main()
