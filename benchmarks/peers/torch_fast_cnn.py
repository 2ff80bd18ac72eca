"""Few epochs on CIFAR-10 in plain PyTorch, as the published record trains, written from the paper.

    python benchmarks/peers/torch_fast_cnn.py IMAGES.npz --seed 0 --threads 2

Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, with Muon (Jordan et al. 2024) for the
kernels: a fixed first layer that whitens 2 x 2 patches, three groups of two convolutions, flips in alternation, shifts
by 2 px of reflected images, label smoothing 0.2, weights averaged over the last steps, 8 epochs of batches of 2,000.
A careful user's code: uint8 in memory, channels-last, autocast to bf16 or fp32. It prints accuracy on the test images
with and without test-time augmentation (mirror images, and shifts by one pixel), and seconds of training and in all.
"""

import argparse
import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 256, 256)
SMOOTHING, SHIFT_PX, WHITENING_IMAGES = 0.2, 2, 5000
KERNEL_RATE, HEAD_RATE, BIAS_RATE = 0.24, 0.67, 0.053
DECAY = 2e-6  # of biases and the head, for each image of a batch
NORMAL_STEPS, AVERAGE_EVERY = 3, 5


class Network(nn.Module):
    """Whitening, three groups of (convolution, pooling, norm, GELU, convolution, norm, GELU), maximum, linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad_(False)
        layers: list[nn.Module] = []
        channels = 24
        for width in WIDTHS:
            for inputs, pool in ((channels, True), (width, False)):
                convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
                nn.init.dirac_(convolution.weight[:inputs].data)
                norm = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
                norm.weight.requires_grad_(False)
                layers += [convolution, *([nn.MaxPool2d(2)] if pool else []), norm, nn.GELU()]
            channels = width
        self.groups = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.groups(F.gelu(self.whitening(x_BCHW)))
        logits_BK: Tensor = self.head(F.adaptive_max_pool2d(x_BCHW, 1).flatten(1)) / 9
        return logits_BK

    @torch.no_grad()
    def whiten(self, x_BCHW: Tensor) -> None:
        """Principal components of the patches and their negatives, each scaled to unit variance."""
        patches_NP = F.unfold(x_BCHW, 2).transpose(1, 2).reshape(-1, 12).double()
        variance_P, vectors_PP = torch.linalg.eigh(patches_NP.T @ patches_NP / len(patches_NP))
        filters = (vectors_PP / (variance_P + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))
        assert self.whitening.bias is not None
        self.whitening.bias.zero_()


def orthogonal(matrix_RC: Tensor) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrix."""
    wide = matrix_RC if matrix_RC.shape[0] <= matrix_RC.shape[1] else matrix_RC.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(NORMAL_STEPS):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix_RC.shape[0] <= matrix_RC.shape[1] else wide.T


class Muon:
    """Orthogonalised Nesterov momentum for kernels, whose norms are kept at the square root of their filters."""

    def __init__(self, kernels: list[Tensor]) -> None:
        self.kernels = kernels
        self.momenta = [torch.zeros_like(kernel) for kernel in kernels]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for kernel, momentum in zip(self.kernels, self.momenta, strict=True):
            assert kernel.grad is not None
            momentum.mul_(0.6).add_(kernel.grad)
            ahead = kernel.grad.add(momentum, alpha=0.6)
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
            kernel.sub_(orthogonal(ahead.flatten(1)).view(kernel.shape), alpha=rate)


def shifted(padded_BCHW: Tensor, side: int) -> Tensor:
    """A random crop of each padded image."""
    images, most = len(padded_BCHW), 2 * SHIFT_PX + 1
    moves_B2 = torch.randint(0, most, (images, 2), device=padded_BCHW.device)
    crops = torch.empty(images, 3, side, side, device=padded_BCHW.device).to(memory_format=torch.channels_last)
    for down in range(most):
        for right in range(most):
            chosen = ((moves_B2[:, 0] == down) & (moves_B2[:, 1] == right)).nonzero()[:, 0]
            crops[chosen] = padded_BCHW[chosen, :, down : down + side, right : right + side]
    return crops


def mirrored(x_BCHW: Tensor, flipped_B: Tensor) -> Tensor:
    """Images of which those that are `flipped_B` are mirrored."""
    return torch.where(flipped_B[:, None, None, None], x_BCHW.flip(3), x_BCHW)


class Training:
    """Training of a network in so many steps; `average` has the averaged weights."""

    def __init__(self, model: Network, batch: int, total: int, autocast: AbstractContextManager[object]) -> None:
        self.model, self.total, self.autocast = model, total, autocast
        kernels = [weight for weight in model.groups.parameters() if weight.ndim == 4]
        biases = [weight for weight in model.groups.parameters() if weight.ndim == 1 and weight.requires_grad]
        assert model.whitening.bias is not None
        decay = DECAY * batch
        groups = [
            {"params": [model.whitening.bias, *biases], "first": BIAS_RATE, "weight_decay": decay / BIAS_RATE},
            {"params": [model.head.weight], "first": HEAD_RATE, "weight_decay": decay / HEAD_RATE},
        ]
        self.muon, self.others = Muon(kernels), torch.optim.SGD(groups, lr=1.0, momentum=0.85, nesterov=True)
        self.average = {name: value.clone() for name, value in model.state_dict().items()}
        self.steps = 0

    def step(self, x_BCHW: Tensor, y_B: Tensor) -> None:
        """Take one step with augmented images."""
        left = 1 - self.steps / self.total
        with self.autocast:
            logits_BK = self.model(x_BCHW.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits_BK.float(), y_B, label_smoothing=SMOOTHING).backward()
        for group in self.others.param_groups:
            group["lr"] = group["first"] * left
        self.others.step()
        self.muon.step(KERNEL_RATE * left)
        self.model.zero_grad(set_to_none=True)
        if self.steps % AVERAGE_EVERY == AVERAGE_EVERY - 1 or self.steps == self.total - 1:
            keep = 0.0 if self.steps == AVERAGE_EVERY - 1 else 0.95**AVERAGE_EVERY * (self.steps / self.total) ** 3
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].mul_(keep).add_(value, alpha=1 - keep)
        self.steps += 1


def predicted(model: Network, x_NCHW: Tensor, tta: bool, autocast: AbstractContextManager[object]) -> Tensor:
    """Logits [N, K]; with `tta` the mean over mirror images, and half of the weight on shifts by one pixel."""
    found = []
    with torch.inference_mode(), autocast:
        for x_BCHW in x_NCHW.split(500):
            views = [(x_BCHW, 1.0)]
            if tta:
                edge, side = F.pad(x_BCHW, (1, 1, 1, 1), mode="reflect"), x_BCHW.shape[2]
                moved = [edge[:, :, first : first + side, first : first + side] for first in (0, 2)]
                views = [(view, share) for view, share in ((x_BCHW, 0.25), (moved[0], 0.125), (moved[1], 0.125))]
                views += [(view.flip(3), share) for view, share in views]
            found.append(sum(share * model(view).float() for view, share in views))
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help=".npz with x_train, y_train, x_test, y_test; x is uint8 [N, H, W, 3]")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    began = time.perf_counter()
    with np.load(given.images) as arrays:
        x = {name: torch.from_numpy(arrays[f"x_{name}"]).permute(0, 3, 1, 2) for name in ("train", "test")}
        y = {name: torch.from_numpy(arrays[f"y_{name}"]).long() for name in ("train", "test")}
    levels = x["train"].float() / 255
    mean, std = levels.mean(dim=(0, 2, 3), keepdim=True), levels.std(dim=(0, 2, 3), keepdim=True)
    del levels
    pixels = {name: ((images.float() / 255 - mean) / std) for name, images in x.items()}
    model = Network(int(y["train"].max()) + 1)
    model.whiten(pixels["train"][:WHITENING_IMAGES])
    model = model.to(memory_format=torch.channels_last).train()
    autocast = torch.autocast("cpu", torch.bfloat16) if given.precision == "bf16" else nullcontext()
    seconds = train(model, pixels["train"], y["train"], given, autocast)
    model.eval()
    hits = {}
    for tta in (False, True):
        logits_NK = predicted(model, pixels["test"], tta, autocast)
        hits[tta] = float((logits_NK.argmax(1) == y["test"]).float().mean())
        if not tta:
            total = time.perf_counter() - began
    row = {"accuracy": hits[False], "accuracy_tta": hits[True], "train_seconds": seconds, "seconds": total}
    print(json.dumps({**row, "precision": given.precision, "torch": torch.__version__}), flush=True)


def train(
    model: Network, x_NCHW: Tensor, y_N: Tensor, given: argparse.Namespace, autocast: AbstractContextManager[object]
) -> float:
    """Train the network in place, with averaged weights at the end; return the seconds."""
    began, side = time.perf_counter(), x_NCHW.shape[2]
    assert model.whitening.bias is not None
    steps = max(1, len(x_NCHW) // given.batch)
    training = Training(model, given.batch, given.epochs * steps, autocast)
    padded_NCHW = F.pad(x_NCHW, [SHIFT_PX] * 4, mode="reflect")
    flipped_N = torch.rand(len(x_NCHW)) < 0.5
    for step in range(training.total):
        if step % steps == 0:
            order_N, flipped_N = torch.randperm(len(x_NCHW)), ~flipped_N
            model.whitening.bias.requires_grad_(step < 3 * steps)
        chosen = order_N[(step % steps) * given.batch :][: given.batch]
        training.step(mirrored(shifted(padded_NCHW[chosen], side), flipped_N[chosen]), y_N[chosen])
    average = {name: value for name, value in training.average.items() if value.is_floating_point()}
    model.load_state_dict({**model.state_dict(), **average})
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
