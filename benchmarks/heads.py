"""A linear head on frozen features at eleven strengths of its penalty: Loupe's solver against scikit-learn's, in turns.

    python benchmarks/heads.py $LOUPE_DATA --images 500 1000 --rounds 3

Features of CIFAR-10 by a pretrained network at 96 px, in fp32; so many training images of each class, 5,000 other ones
to judge by. Both minimise the same objective. Loupe stops within 1e-6 of its minimum, scikit-learn where no entry of
the gradient is above 1e-4; the differences at the end are printed beside the times. scikit-learn starts each strength
anew, as a script that loops over them does, and once from the one before.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from loupe.cache import cache_folder
from loupe.data.dataset import open_dataset
from loupe.data.pixels.prepare import load_images
from loupe.recipes.resolve import resolve
from loupe.recipes.transfer import SOLVED
from loupe.training.features import features
from loupe.training.logistic import MOST_STEPS, Regression, Solution
from setting import commit, machine

ELEVEN = SOLVED.model_copy(update={"epochs": 11})
PENALTIES = [ELEVEN.l2_strength(number) for number in range(ELEVEN.planned_epochs)]
Heads = list[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cifar10 and weights")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000], help="of each class to learn from")
    parser.add_argument("--held-out", type=int, default=5_000, help="images to judge by")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    features_NC, label_N = of_cifar(given.data)
    order_N = np.random.default_rng(0).permutation(len(label_N))
    held, rest = order_N[: given.held_out], order_N[given.held_out :]
    print(commit(), machine(torch.get_num_threads()))
    for count in given.images:
        chosen = np.concatenate([rest[label_N[rest] == label][:count] for label in range(10)])
        x, y = features_NC[chosen], label_N[chosen]
        contenders: dict[str, Callable[[], Heads]] = {
            "loupe": partial(by_loupe, x, y),
            "scikit-learn": partial(by_sklearn, x, y, warm=False),
            "scikit-learn, warm": partial(by_sklearn, x, y, warm=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        losses = {}
        for _ in range(given.rounds):
            for name, solve in contenders.items():
                began = time.perf_counter()
                heads = solve()
                seconds[name].append(time.perf_counter() - began)
                losses[name] = [loss(head, features_NC[held], label_N[held]) for head in heads]
        for name, times in seconds.items():
            ratios = [theirs / mine for mine, theirs in zip(seconds["loupe"], times, strict=True)]
            apart = max(abs(mine - other) for mine, other in zip(losses["loupe"], losses[name], strict=True))
            span = f"{min(ratios):.1f} to {max(ratios):.1f}"
            took = f"{statistics.median(times):7.1f} s   {statistics.median(ratios):5.1f} times Loupe ({span})"
            ends = f"validation losses at most {apart:.5f} from Loupe's, lowest {min(losses[name]):.4f}"
            print(f"{len(y):>6} images  {name:<20} {took}   {ends}", flush=True)


def of_cifar(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features of the training images, float32 [N, C], and their labels; kept in the cache folder."""
    dataset = open_dataset(data / "cifar10")
    table = dataset.table
    recipe = resolve(
        "features",
        dataset,
        model=None,
        weights=str(data / "weights" / "tf_efficientnet_lite0.in1k.safetensors"),
        flags={},
        extra=["input.size_px=96", "input.load_px=96"],
    )
    preprocessing = recipe.preprocessing
    images = load_images(dataset, preprocessing, cache=cache_folder())
    folder, device = cache_folder() / "frozen", torch.device("cpu")
    found = features(recipe.model, preprocessing, images, device=device, folder=folder)
    train_N = np.array([split == "train" for split in table.splits])
    return found[train_N], table.labels[train_N]


def by_loupe(x: np.ndarray, y: np.ndarray) -> Heads:
    regression, found = Regression(torch.from_numpy(x), torch.from_numpy(y), 10), list[Solution]()
    for penalty in PENALTIES:
        found.append(regression.solve(penalty, found))
    return [(solution.weight_KC.numpy(), solution.bias_K.numpy()) for solution in found]


def by_sklearn(x: np.ndarray, y: np.ndarray, *, warm: bool) -> Heads:
    head, found = LogisticRegression(max_iter=MOST_STEPS, warm_start=warm), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in PENALTIES:
            head.set_params(C=1 / penalty).fit(x, y)
            found.append((head.coef_.copy(), head.intercept_.copy()))
    return found


def loss(head: tuple[np.ndarray, np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    weight_KC, bias_K = head
    logits_NK = torch.from_numpy(x @ weight_KC.T.astype(np.float32) + bias_K.astype(np.float32))
    return float(torch.nn.functional.cross_entropy(logits_NK.double(), torch.from_numpy(y)))


if __name__ == "__main__":
    main()
