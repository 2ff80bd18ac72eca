"""Whether attention pooling pays on frozen features: a learned query over the last map, against its plain average.

    python benchmarks/attention_pooling.py $LOUPE_DATA --work attention

tf_efficientnet_lite0 with its ImageNet weights; 200 training images of each class of CIFAR-10 at 96 px (maps of 3 x 3).
The average gets a logistic regression; attention pooling (timm's AttentionPoolLatent without projection and MLP: one
query, eight heads) with its linear layer is trained by AdamW on the same maps, since it cannot be solved. Penalty, rate
and epoch are chosen by the loss on validation images.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

import loupe
from loupe.augment.pipeline import evaluation_view
from loupe.data.pixels.batches import BatchLoader
from loupe.devices import Compute
from loupe.evaluate.estimate import wilson
from loupe.models.engine import engine
from subsets import cifar_subset, finished, percent

FILE = "tf_efficientnet_lite0.in1k.safetensors"
SIZE_PX, EPOCHS, BATCH = 96, 20, 64
PENALTIES = np.logspace(3, -1, 9)
RATES = (1e-4, 3e-4, 1e-3)
RESAMPLES = 10_000
Choice = tuple[float, np.ndarray]  # the loss on validation images, and predictions of the test images
Maps = dict[str, tuple[Tensor, Tensor]]


class Attentive(nn.Module):
    """A map [B, C, H, W] by attention pooling to logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = AttentionPoolLatent(channels, num_heads=8, out_features=0)
        self.norm = nn.LayerNorm(channels)
        self.logits = nn.Linear(channels, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.logits(self.pool(self.norm(x_BCHW.flatten(2).transpose(1, 2))))
        return logits_BK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cifar10 and weights")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the attention pooling")
    parser.add_argument("--penalties", nargs="+", type=float, default=PENALTIES, help="of the average's regression")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates to choose from")
    given = parser.parse_args()
    cifar = cifar_subset(given.data / "cifar10", given.work / "cifar10", train=200, test=200)
    run = finished(given.work, "cifar") or loupe.train(
        cifar,
        recipe="features",
        weights=str(given.data / "weights" / FILE),
        settings={"model.pooling": "average", "input.size_px": SIZE_PX, "input.load_px": SIZE_PX},  # ends with the map
        output=given.work,
        name="cifar",
        quiet=True,
    )
    maps = maps_of(run, cifar)
    choices = average(maps, given.penalties), attentive(maps, given.rates, given.epochs)
    found = compared(*choices, maps["test"][1].numpy())
    print(found)
    (given.work / "attention_pooling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@torch.inference_mode()
def maps_of(run: loupe.Run, data: Path) -> Maps:
    """The last maps [N, C, H, W] and the labels of each split's images, as evaluation sees them."""
    images, split = run.own_images(data)
    model = run.model.eval()
    computes, _ = engine(model.trunk, Compute(torch.device("cpu"), "fp32"), model.preprocessing.size)
    found = {}
    for part in ("train", "val", "test"):
        rows_N = getattr(split, part)
        batches = BatchLoader(images.store, images.table.labels, torch.device("cpu")).batches(rows_N, 32)
        made = computes.run(evaluation_view(batch.x_BCHW, model.preprocessing) for batch in batches)
        map_NHWC = torch.from_numpy(np.concatenate(list(made)))
        found[part] = map_NHWC.permute(0, 3, 1, 2), torch.from_numpy(images.table.labels[rows_N])
    return found


def average(maps: Maps, penalties: Iterable[float]) -> Choice:
    """Validation loss and test predictions of a logistic regression on the averaged maps."""
    pooled = {part: (x_NCHW.mean((2, 3)).numpy(), y_N.numpy()) for part, (x_NCHW, y_N) in maps.items()}
    tried = []
    for penalty in penalties:
        head = LogisticRegression(C=1 / penalty, max_iter=1000).fit(*pooled["train"])
        loss = float(log_loss(pooled["val"][1], head.predict_proba(pooled["val"][0]), labels=head.classes_))
        tried.append((loss, head.predict(pooled["test"][0])))
    return min(tried, key=lambda one: one[0])


def attentive(maps: Maps, rates: Iterable[float], epochs: int) -> Choice:
    """The same of attention pooling and a linear layer, at the best rate and epoch."""
    return min((best for rate in rates for best in trained(maps, rate, epochs)), key=lambda one: one[0])


def trained(maps: Maps, rate: float, epochs: int) -> Iterator[Choice]:
    torch.manual_seed(0)
    (x_NCHW, y_N), (x_val, y_val), (x_test, _) = (maps[part] for part in ("train", "val", "test"))
    model = Attentive(x_NCHW.shape[1], int(y_N.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * -(-len(y_N) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(y_N)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x_NCHW[rows]), y_N[rows]).backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            yield F.cross_entropy(model(x_val), y_val).item(), model(x_test).argmax(1).numpy()


def compared(plain: Choice, attention: Choice, label_N: np.ndarray) -> dict[str, Any]:
    """Test accuracy of both, and attention's gain with the 95 % interval of a paired bootstrap over the images."""
    hits = [(predicted == label_N) for _, predicted in (plain, attention)]
    gain_N = hits[1].astype(float) - hits[0]
    generator = np.random.default_rng(0)
    low, high = np.quantile([generator.choice(gain_N, len(gain_N)).mean() for _ in range(RESAMPLES)], (0.025, 0.975))
    return {
        "average": percent(interval(hits[0])),
        "attention": percent(interval(hits[1])),
        "validation losses": [round(loss, 4) for loss, _ in (plain, attention)],
        "gain": percent({"value": float(gain_N.mean()), "low": float(low), "high": float(high)}),
    }


def interval(hit_N: np.ndarray) -> dict[str, float]:
    low, high = wilson(int(hit_N.sum()), len(hit_N))
    return {"value": float(hit_N.mean()), "low": low, "high": high}


if __name__ == "__main__":
    main()
