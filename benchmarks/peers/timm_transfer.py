"""A head, or the last block with a head, on a frozen backbone: timm and torchvision by hand and with care.

    python benchmarks/peers/timm_transfer.py FOLDER --job last-block --weights FILE.safetensors --precision bf16

Run by benchmarks/transfer.py. Two worker processes decode and augment; the network lies channels-last; what is frozen
runs in evaluation mode and without a graph, anew in every epoch. Validation after every epoch chooses the weights, and
the test images are predicted once. The rates, schedules and decay of the last block are those of
Loupe's recipe.
"""

import argparse
import copy
import os
import time
from pathlib import Path

import measure
import timm
import torch
import torch.nn.functional as F
from timm.models import load_state_dict
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

NETWORK = "tf_efficientnet_lite0"
# Batch size, highest learning rate and label smoothing.
JOBS = {"features-augment": (64, 3e-3, 0.0), "last-block": (32, 3e-4, 0.1)}
WEIGHT_DECAY = 1e-2


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What the peers on timm's network have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train, val and test folders of class folders")
    parser.add_argument("--job", choices=tuple(JOBS), default="features-augment")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=2)
    return parser


def parts(job: str, weights: Path, classes: int) -> tuple[nn.Sequential, nn.Sequential]:
    """What stays frozen and what learns; one after the other they are the network with a fresh head."""
    network = timm.create_model(NETWORK, num_classes=classes)
    state = load_state_dict(str(weights))
    wanted = {name: state.get(name) for name in network.state_dict()}
    fresh = {name: value for name, value in network.state_dict().items() if name.startswith("classifier.")}
    network.load_state_dict({**wanted, **fresh})
    *blocks, last = network.blocks
    before = [network.conv_stem, network.bn1, *blocks]
    block = [last, network.conv_head, network.bn2, network.global_pool]
    if job == "features-augment":
        return nn.Sequential(*before, *block), nn.Sequential(network.classifier)
    return nn.Sequential(*before), nn.Sequential(*block, network.classifier)


def loader(folder: Path, batch_size: int, workers: int, *, training: bool) -> DataLoader:
    bicubic = InterpolationMode.BICUBIC
    augmented = [v2.RandomResizedCrop(224, scale=(0.6, 1.0), interpolation=bicubic), v2.RandomHorizontalFlip()]
    centred = [v2.Resize(256, interpolation=bicubic), v2.CenterCrop(224)]
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    images = ImageFolder(folder, v2.Compose([*(augmented if training else centred), *tensor]))
    return DataLoader(images, batch_size, shuffle=training, num_workers=workers, persistent_workers=workers > 0)


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def accuracy(frozen: nn.Module, learning: nn.Module, images: DataLoader, precision: str) -> float:
    learning.eval()
    hits = 0
    for x_BCHW, y_B in images:
        with autocast(precision):
            logits_BK = learning(frozen(x_BCHW.to(memory_format=torch.channels_last)))
        hits += int((logits_BK.argmax(dim=1) == y_B).sum())
    return hits / len(images.dataset)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    began = time.perf_counter()
    batch_size, lr, smoothing = JOBS[given.job]
    train = loader(given.data / "train", batch_size, given.workers, training=True)
    val = loader(given.data / "val", 64, given.workers, training=False)
    frozen, learning = (
        part.to(memory_format=torch.channels_last)
        for part in parts(given.job, given.weights, len(train.dataset.classes))
    )
    frozen.eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    steps = given.epochs * len(train)
    if given.job == "last-block":
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    best, kept = -1.0, {}
    for _ in range(given.epochs):
        learning.train()
        for x_BCHW, y_B in train:
            with autocast(given.precision):
                with torch.no_grad():
                    inputs = frozen(x_BCHW.to(memory_format=torch.channels_last))
                logits_BK = learning(inputs)
            loss = F.cross_entropy(logits_BK.float(), y_B, label_smoothing=smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        found = accuracy(frozen, learning, val, given.precision)
        if found > best:
            best, kept = found, copy.deepcopy(learning.state_dict())
    train_seconds = time.perf_counter() - began
    learning.load_state_dict(kept)
    test = loader(given.data / "test", 64, given.workers, training=False)
    measure.report(
        train_seconds=train_seconds,
        val=best,
        test=accuracy(frozen, learning, test, given.precision),
        versions={"torch": torch.__version__, "timm": timm.__version__},
    )


if __name__ == "__main__":
    main()
