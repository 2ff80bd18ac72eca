"""Plain PyTorch loops beside Loupe's jobs of gpu_check.py, over pixels that are on the device."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_jobs import EPOCHS, WHITENING_IMAGES, Job, Setting, Stopwatch
from loupe.devices import DTYPES
from loupe.training.frozen import PASS_BATCH

sys.path.append(str(Path(__file__).resolve().parent / "peers"))
import torch_deep_cnn
import torch_fast_cnn


def measure(job: Job) -> float:
    """Images per second of the plain loop of a job."""
    return _record(job) if job.name == "fast" else _plain(job)


def _autocast(setting: Setting) -> AbstractContextManager[object]:
    reduced = setting.precision != "fp32"
    return torch.autocast(setting.device.type, DTYPES[setting.precision]) if reduced else nullcontext()


def _normalised(job: Job, x_BHWC: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] that the network takes, of uint8 ones."""
    levels = (job.recipe.preprocessing.mean, job.recipe.preprocessing.std)
    mean, std = (255 * torch.tensor(values, device=job.setting.device).view(1, 3, 1, 1) for values in levels)
    return x_BHWC.permute(0, 3, 1, 2).float().sub_(mean).div_(std)


def _plain(job: Job) -> float:
    """Steps of AdamW with pixels that are normalised by the batch, or forward passes."""
    network, device = _network(job), job.setting.device
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-4, fused=True) if trained else None
    watch, size = Stopwatch(job.setting), PASS_BATCH if job.stage.is_solved else job.stage.batch_size
    while True:
        for rows_B in torch.randperm(len(job.y_N), device=device).split(size):
            if watch.is_over(len(rows_B)):
                return watch.speed
            x_BCHW = _normalised(job, job.x_NHWC.index_select(0, rows_B))
            if job.name == "deep-cnn":
                x_BCHW = torch_deep_cnn.augment(x_BCHW).contiguous(memory_format=torch.channels_last)
            with _autocast(job.setting), nullcontext() if optimizer else torch.inference_mode():
                outputs = network(x_BCHW)
            if optimizer is None:
                outputs.float().cpu()
                continue
            loss = F.cross_entropy(outputs.float(), job.y_N[rows_B])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def _network(job: Job) -> nn.Module:
    if job.name == "deep-cnn":
        network = torch_deep_cnn.network().train()
    elif job.name == "features":
        network = timm.create_model(job.setting.backbone, num_classes=0).eval().requires_grad_(False)
    else:
        network = timm.create_model(job.setting.backbone, num_classes=len(job.images.table.classes)).eval()
        if job.name == "last-block":
            network.requires_grad_(False)
            for part in (network.blocks[-1], network.get_classifier()):
                part.requires_grad_(True)
    return network.to(job.setting.device).to(memory_format=torch.channels_last)


def _record(job: Job) -> float:
    """Steps of peers/torch_fast_cnn.py as in its last epochs, in which the bias of the whitening layer is fixed.

    The images of an epoch are augmented all at once, as the record's own script does on a GPU: choosing the images of
    each shift makes the CPU wait, which would slow every step down.
    """
    device, size, watch = job.setting.device, job.stage.batch_size, Stopwatch(job.setting)
    x_NCHW = _normalised(job, job.x_NHWC)
    network = torch_fast_cnn.Network(len(job.images.table.classes))
    network.whiten(x_NCHW[:WHITENING_IMAGES].cpu())
    network.whitening.requires_grad_(False)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    training = torch_fast_cnn.Training(network, size, EPOCHS * len(x_NCHW) // size, _autocast(job.setting))
    padded_NCHW, side = F.pad(x_NCHW, [torch_fast_cnn.SHIFT_PX] * 4, mode="reflect"), x_NCHW.shape[2]
    flipped_N = torch.rand(len(x_NCHW), device=device) < 0.5
    while True:
        flipped_N = ~flipped_N
        x_NCHW = torch_fast_cnn.mirrored(torch_fast_cnn.shifted(padded_NCHW, side), flipped_N)
        for rows_B in torch.randperm(len(x_NCHW), device=device).split(size):
            if watch.is_over(len(rows_B)):
                return watch.speed
            training.step(x_NCHW.index_select(0, rows_B), job.y_N[rows_B])
