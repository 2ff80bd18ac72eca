"""deep-cnn in plain PyTorch, as a careful user writes it: channels-last, autocast to bf16, fused Adam.

    python benchmarks/peers/torch_deep_cnn.py PIXELS.npz --mode augmented --precision bf16

The pixels stay uint8 in memory and are normalised by the batch. The augmentation is the document's: rotation, shifts
and flip as one affine map for each image, by affine_grid and grid_sample.
"""

import math
from contextlib import nullcontext

import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def network() -> nn.Sequential:
    """Three blocks of (convolution, ReLU, normalisation) twice; 309,290 parameters, 896 of them running statistics."""
    layers: list[nn.Module] = []
    channels = 3
    for filters, dropout in ((32, 0.2), (64, 0.3), (128, 0.4)):
        for _ in range(2):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)]
            channels = filters
        layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))


def augment(x_BCHW: Tensor) -> Tensor:
    """Rotation up to 15 degrees, shifts up to a tenth of the side, horizontal flip; the border is repeated."""
    images, device = len(x_BCHW), x_BCHW.device
    angle_B = (torch.rand(images, device=device) * 2 - 1) * math.radians(15)
    shift_B2 = (torch.rand(images, 2, device=device) * 2 - 1) * 0.2  # in grid_sample's coordinates the side is 2
    flip_B = torch.randint(0, 2, (images,), device=device) * 2 - 1
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    rows_B23 = torch.stack(
        [
            torch.stack([cos_B * flip_B, -sin_B, shift_B2[:, 0]], dim=1),
            torch.stack([sin_B * flip_B, cos_B, shift_B2[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(rows_B23, list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid, padding_mode="border", align_corners=False)


def main() -> None:
    given = measure.arguments(__doc__, precision=("bf16", "fp32"))
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    with np.load(given.pixels) as arrays:
        x_NCHW, y_N = torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["y"])
        mean, std = float(arrays["x"].mean()), float(arrays["x"].std())
    model = network().to(memory_format=torch.channels_last).train()
    kernels = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 4]
    # The gradient of Keras's l2(1e-4) is 2e-4 times the weight, which is what Adam's coupled weight decay adds.
    groups = [{"params": kernels, "weight_decay": 2e-4}, {"params": others}]
    optimizer = torch.optim.Adam(groups, lr=1e-3, eps=1e-7, fused=True)
    clock = measure.Clock()
    for indices in torch.randperm(len(y_N)).split(measure.BATCH_IMAGES)[: given.warmup + given.steps + 1]:
        x_BCHW = x_NCHW.index_select(0, indices).float().sub_(mean).div_(std)
        if given.mode == "augmented":
            x_BCHW = augment(x_BCHW)
        with torch.autocast("cpu", torch.bfloat16) if given.precision == "bf16" else nullcontext():
            logits_BK = model(x_BCHW.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits_BK.float(), y_N[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        clock.mark()
    measure.report(
        parameters=sum(t.numel() for t in model.state_dict().values() if t.is_floating_point()),
        precision=given.precision,
        versions={"torch": torch.__version__, "numpy": np.__version__},
        **clock.speeds(given.warmup),
    )


if __name__ == "__main__":
    main()
