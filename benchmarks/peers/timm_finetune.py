"""Fine-tuning of a whole timm network within a time limit, by hand and with care, then predictions for the test folder.

    python benchmarks/peers/timm_finetune.py FOLDER --weights FILE --network NAME --work W --seconds 120
    python benchmarks/peers/timm_finetune.py FOLDER --weights FILE --network NAME --work W --predict

Run by benchmarks/best_in_time.py. A tenth of FOLDER/train is for validation. AdamW, one cycle over as many epochs as
fit into the limit by a timed first part (at least one step is taken), label smoothing 0.1, random resized crops and
flips, bf16 where the processor has matrix units for it. The weights of the epoch with the highest validation accuracy
are kept.
"""

import time

BEGAN = time.time()

import argparse  # noqa: E402
import copy  # noqa: E402
import csv  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from timm.models import load_state_dict  # noqa: E402
from torch.utils.data import DataLoader, Subset  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import InterpolationMode, v2  # noqa: E402

BATCH = 32
LR = 3e-4
WEIGHT_DECAY = 1e-2
SPARE_SECONDS = 2.0  # to write the weights
TIMED_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train and test folders of class folders")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--predict", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    task = Task(given)
    task.predict() if given.predict else task.train()


class Task:
    """Network, images and clock of one training."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.classes = sorted(path.name for path in (given.data / "train").iterdir())
        network = timm.create_model(given.network, num_classes=len(self.classes))
        state = load_state_dict(str(given.weights))
        own = network.state_dict()
        network.load_state_dict({k: v if k.startswith("classifier.") else state.get(k, v) for k, v in own.items()})
        self.network = network.to(memory_format=torch.channels_last)
        self.config = timm.get_pretrained_cfg(given.network)
        self.bf16 = torch.cpu._is_amx_tile_supported() if hasattr(torch.cpu, "_is_amx_tile_supported") else False

    def images(self, folder: str, *, training: bool) -> ImageFolder:
        size, bicubic = self.config.input_size[-1], InterpolationMode.BICUBIC
        augmented = [v2.RandomResizedCrop(size, scale=(0.6, 1.0), interpolation=bicubic), v2.RandomHorizontalFlip()]
        centred = [v2.Resize(round(size / self.config.crop_pct), interpolation=bicubic), v2.CenterCrop(size)]
        normal = v2.Normalize(self.config.mean, self.config.std)
        tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), normal]
        return ImageFolder(self.given.data / folder, v2.Compose([*(augmented if training else centred), *tensor]))

    def loader(self, images: object, *, training: bool) -> DataLoader:
        workers = self.given.workers
        return DataLoader(images, BATCH, shuffle=training, num_workers=workers, persistent_workers=workers > 0)

    def left(self) -> float:
        return self.given.seconds - SPARE_SECONDS - (time.time() - BEGAN)

    def train(self) -> None:
        train, val = self.images("train", training=True), self.images("train", training=False)
        order = np.random.default_rng(self.given.seed).permutation(len(train))
        held = max(1, len(order) // 10)
        batches = self.loader(Subset(train, order[held:].tolist()), training=True)
        validation = self.loader(Subset(val, order[:held].tolist()), training=False)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        steps = self.steps_that_fit(batches, held, optimizer)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=max(steps, 2))
        best, kept, taken, longest = -1.0, self.network.state_dict(), 0, 0.0
        while taken < steps and self.left() > longest:
            for x_BCHW, y_B in batches:
                self.step(x_BCHW, y_B, optimizer)
                schedule.step()
                taken += 1
                if taken == steps or self.left() <= longest:
                    break
            began = time.time()
            found = self.accuracy(validation)
            longest = max(longest, time.time() - began)
            print(f"{taken} of {steps} steps, validation accuracy {found:.3f}, {self.left():.0f} s left", flush=True)
            if found > best:
                best, kept = found, copy.deepcopy(self.network.state_dict())
        torch.save(kept, self.given.work / "weights.pt")

    def steps_that_fit(self, batches: DataLoader, held: int, optimizer: torch.optim.Optimizer) -> int:
        """Number of steps, in whole epochs where one fits, from a few timed steps whose effect is undone."""
        before = copy.deepcopy(self.network.state_dict())
        several = iter(batches)
        self.step(*next(several), optimizer)
        began, timed = time.time(), 0
        for _, (x_BCHW, y_B) in zip(range(TIMED_STEPS), several, strict=False):
            self.step(x_BCHW, y_B, optimizer)
            timed += 1
        each = (time.time() - began) / max(1, timed)
        self.network.load_state_dict(before)
        optimizer.state.clear()
        epoch = each * (len(batches) + held / BATCH / 3)
        whole = int(self.left() / epoch)
        return whole * len(batches) if whole else max(1, int((self.left() - each * held / BATCH / 3) / each))

    def step(self, x_BCHW: torch.Tensor, y_B: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits_BK = self.network(x_BCHW.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits_BK.float(), y_B, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.inference_mode()
    def predicted(self, images: DataLoader) -> np.ndarray:
        self.network.eval()
        found = []
        for x_BCHW, _ in images:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                found.append(self.network(x_BCHW.to(memory_format=torch.channels_last)).argmax(dim=1))
        return torch.cat(found).numpy()

    def accuracy(self, images: DataLoader) -> float:
        subset = images.dataset
        truth = np.array(subset.dataset.targets)[subset.indices]
        return float((self.predicted(images) == truth).mean())

    def predict(self) -> None:
        self.network.load_state_dict(torch.load(self.given.work / "weights.pt", weights_only=True))
        test = self.images("test", training=False)
        said = self.predicted(self.loader(test, training=False))
        with (self.given.work / "predictions.csv").open("w", newline="", encoding="utf-8") as target:
            writer = csv.writer(target, lineterminator="\n")
            writer.writerow(("path", "predicted"))
            for (path, _), label in zip(test.samples, said, strict=True):
                writer.writerow((Path(path).relative_to(self.given.data / "test").as_posix(), self.classes[label]))


if __name__ == "__main__":
    main()
