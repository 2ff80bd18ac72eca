"""Frozen features and a linear head, by hand and with care: what `loupe train --recipe features` is measured against.

Torchvision decodes and resizes in two worker processes; timm's network runs in one pass over all images,
channels-last, in bf16 where that is said; scikit-learn's logistic regression is fitted for eleven strengths, of which
the validation images choose; the test images are predicted once.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from timm.models import load_state_dict
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

STRENGTHS = np.geomspace(1e4, 1e-1, 11)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train, val and test folders of class folders")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    began = time.perf_counter()
    network = timm.create_model(given.model, num_classes=0).eval().to(memory_format=torch.channels_last)
    state = load_state_dict(str(given.weights))
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    view = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    parts = {name: features(network, ImageFolder(given.data / name, view), given) for name in ("train", "val", "test")}
    fitted = [LogisticRegression(C=1 / strength, max_iter=1000).fit(*parts["train"]) for strength in STRENGTHS]
    best = max(fitted, key=lambda head: head.score(*parts["val"]))
    accuracy = {name: best.score(*parts[name]) for name in ("val", "test")}
    print(json.dumps({"seconds": time.perf_counter() - began, **accuracy}), flush=True)


@torch.inference_mode()
def features(network: torch.nn.Module, images: ImageFolder, given: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    loader = DataLoader(images, batch_size=32, num_workers=given.workers)
    found, labels = [], []
    for x_BCHW, y_B in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16"):
            found.append(network(x_BCHW.to(memory_format=torch.channels_last)).float().numpy())
        labels.append(y_B.numpy())
    return np.concatenate(found), np.concatenate(labels)


if __name__ == "__main__":
    main()
