"""Do class weights, resampling, logit adjustment or focal loss raise the macro-F1 of heads on unbalanced images?

    python benchmarks/unbalanced.py $LOUPE_DATA --write results

Heads on frozen features of tf_efficientnet_lite0, each image predicted by a head that learned from the other four of
five folds. `plain` is logistic regression, `weights` the same with class_weights balanced, `adjusted` the plain head
with log prior subtracted from its logits (Menon et al. 2021, "Long-tail learning via logit adjustment", equation 9,
tau 1). `resampled` learns from images drawn with replacement, as many of each class as of the largest; `focal`
minimises the focal loss (Lin et al. 2017, gamma 2). The strength of the penalty is that with the lowest log loss of the
out-of-fold predictions; for the last two, of STRENGTHS. The magnetic tiles
are unbalanced by nature; their near duplicates are in one fold. Of the hand signs and letters, so many images of each
class are drawn that the sizes fall exponentially to a twentieth. Each method is compared with `plain` by the paired
permutation test of macro-F1 on the same images. Seeds draw images and folds.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from loupe.cache import cache_folder
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.prepare import load_images
from loupe.data.splits.folds import numbers
from loupe.evaluate.paired_f1 import macro_f1, macro_f1_difference
from loupe.labels.find import recipe_for
from loupe.training.features import features
from loupe.training.heads import out_of_fold
from loupe.training.logistic import Regression
from setting import commit, machine

FILE = "tf_efficientnet_lite0.in1k.safetensors"
SETS = ("magnetic_tiles", "sign_digits", "letters")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of L2 penalties
GAMMA = 2.0  # of the focal loss
RATIO = 20  # of the largest class to the smallest one, where images are left out
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the sets and the weights")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, required=True, help="folder of unbalanced.json")
    given = parser.parse_args()
    rows: list[Row] = []
    for name in given.sets:
        dataset = open_dataset(str(given.data / name), announce=False)
        features_NC, content = _features(dataset, str(given.data / "weights" / FILE))
        for seed in range(given.seeds):
            for row in _measured(dataset, features_NC, content, seed):
                rows.append({"set": name, "seed": seed, **row})
                print(json.dumps(rows[-1]), flush=True)
            result = {"commit": commit(), "machine": machine(torch.get_num_threads()), "rows": rows}
            (given.write / "unbalanced.json").write_text(json.dumps(result, indent=1) + "\n")


def _features(dataset: Dataset, weights: str) -> tuple[np.ndarray, tuple[str, ...]]:
    recipe, network = recipe_for(dataset, "tf_efficientnet_lite0", weights, None, 0)
    images = load_images(dataset, recipe.preprocessing, cache=cache_folder())
    folder = cache_folder() / "frozen"
    return features(network, recipe.preprocessing, images, device=torch.device("cpu"), folder=folder), images.content


def _measured(dataset: Dataset, features_NC: np.ndarray, content: tuple[str, ...], seed: int) -> list[Row]:
    table, near = dataset.table, dataset.name == "magnetic_tiles"
    rows_N = np.arange(len(table)) if near else _unbalanced(table.labels, seed)
    label_N, classes = table.labels[rows_N], len(table.classes)
    group = "near" if near else "given"
    fold_N = numbers(table, content, rows_N, folds=5, seed=seed, group=group)
    counts_K = np.bincount(label_N, minlength=classes)
    weight_K = (counts_K.sum() / (classes * counts_K)).astype(np.float32)
    plain = out_of_fold(features_NC[rows_N], label_N, fold_N, classes).logits_NK
    weighted = out_of_fold(features_NC[rows_N], label_N, fold_N, classes, weight_K=weight_K).logits_NK
    resampled = partial(_resampled, rng=np.random.default_rng([seed, 1]))
    logits = {
        "plain": plain,
        "weights": weighted,
        "adjusted": plain - np.log(counts_K / counts_K.sum()),
        "resampled": _by_folds(features_NC[rows_N], label_N, fold_N, classes, resampled),
        "focal": _by_folds(features_NC[rows_N], label_N, fold_N, classes, _focal),
    }
    predicted = {method: one.argmax(axis=1)[None].astype(np.int64) for method, one in logits.items()}
    found = []
    for method, one in predicted.items():
        difference = macro_f1_difference("plain", method, label_N, predicted) if method != "plain" else None
        found.append(
            {
                "method": method,
                "images": len(label_N),
                "accuracy": float((one[0] == label_N).mean()),
                "macro_f1": macro_f1(label_N, one),
                "gain": difference and [difference.value, difference.low, difference.high, difference.p],
            }
        )
    return found


Heads = list[tuple[np.ndarray, np.ndarray]]  # weights [K, C] and biases [K], for each of STRENGTHS


def _by_folds(
    features_NC: np.ndarray, label_N: np.ndarray, fold_N: np.ndarray, classes: int, fit: Callable[..., Heads]
) -> np.ndarray:
    """Logits [N, K] of each image by the heads of the other folds, at the strength with the lowest log loss."""
    logits_SNK = np.zeros((len(STRENGTHS), len(label_N), classes))
    for fold in np.unique(fold_N):
        inside_N = fold_N == fold
        heads = fit(features_NC[~inside_N], label_N[~inside_N], classes)
        logits_SNK[:, inside_N] = [features_NC[inside_N] @ weight_KC.T + bias_K for weight_KC, bias_K in heads]
    losses = [F.cross_entropy(torch.from_numpy(one), torch.from_numpy(label_N)).item() for one in logits_SNK]
    return logits_SNK[int(np.argmin(losses))]


def _resampled(x_NC: np.ndarray, label_N: np.ndarray, classes: int, *, rng: np.random.Generator) -> Heads:
    """Logistic regression on as many images of each class as of the largest, drawn with replacement."""
    most = np.bincount(label_N).max()
    drawn = [rng.choice(np.flatnonzero(label_N == k), most) for k in np.unique(label_N)]
    rows_M = np.concatenate(drawn)
    regression = Regression(torch.from_numpy(x_NC[rows_M]), torch.from_numpy(label_N[rows_M]), classes)
    solved = [regression.solve(strength, []) for strength in STRENGTHS]
    return [(one.weight_KC.numpy(), one.bias_K.numpy()) for one in solved]


def _focal(x_NC: np.ndarray, label_N: np.ndarray, classes: int) -> Heads:
    """Linear heads with focal loss, by PyTorch's L-BFGS from zero."""
    x, y = torch.from_numpy(x_NC).double(), torch.from_numpy(label_N)
    heads = []
    for strength in STRENGTHS:
        weight_KC = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
        bias_K = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([weight_KC, bias_K], max_iter=200, line_search_fn="strong_wolfe")

        def loss(weight=weight_KC, bias=bias_K, solver=solver, strength=strength) -> torch.Tensor:
            solver.zero_grad()
            log_N = F.log_softmax(x @ weight.T + bias, dim=1).gather(1, y[:, None])[:, 0]
            value = -((1 - log_N.exp()) ** GAMMA * log_N).mean() + strength / 2 * (weight**2).sum()
            value.backward()
            return value

        solver.step(loss)
        heads.append((weight_KC.detach().numpy(), bias_K.detach().numpy()))
    return heads


def _unbalanced(label_N: np.ndarray, seed: int) -> np.ndarray:
    """Rows whose classes, in an order drawn by the seed, fall exponentially in size to a RATIO-th."""
    rng = np.random.default_rng(seed)
    counts_K = np.bincount(label_N)
    share_K = RATIO ** -(rng.permutation(len(counts_K)) / (len(counts_K) - 1))
    kept = [
        rng.choice(np.flatnonzero(label_N == k), max(5, round(counts_K.min() * share)), replace=False)
        for k, share in enumerate(share_K)
    ]
    return np.sort(np.concatenate(kept))


if __name__ == "__main__":
    main()
