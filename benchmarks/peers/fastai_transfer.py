"""A head, or the last block with a head, on a frozen backbone: fastai's Learner on timm's network.

    python -m venv fastai-venv && fastai-venv/bin/pip install fastai timm
    fastai-venv/bin/python benchmarks/peers/fastai_transfer.py FOLDER --job last-block --weights FILE.safetensors

Run by benchmarks/transfer.py --fastai-python fastai-venv/bin/python. The same network, split and batch sizes as in
timm_transfer.py; the one-cycle policy and the optimizer are fastai's own. The batch normalisation of what is frozen is
frozen too (train_bn, which fastai sets by default, would run the backward pass through the whole network).
"""

import tempfile
import time
from importlib.metadata import version

import measure
import torch
from fastai.callback.schedule import Learner  # the module adds fit_one_cycle to it
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import BnFreeze
from fastai.data.transforms import Normalize, get_image_files
from fastai.learner import params
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import FlipItem, RandomResizedCrop
from fastai.vision.data import ImageDataLoaders
from PIL import Image
from timm_transfer import JOBS, WEIGHT_DECAY, arguments, parts
from torch import nn


def main() -> None:
    given = arguments(__doc__).parse_args()
    torch.set_num_threads(given.threads)
    set_seed(0)
    began = time.perf_counter()
    batch_size, lr, smoothing = JOBS[given.job]
    resamples = (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)
    loaders = ImageDataLoaders.from_folder(
        given.data,
        train="train",
        valid="val",
        item_tfms=[RandomResizedCrop(224, min_scale=0.6, resamples=resamples), FlipItem()],
        batch_tfms=Normalize.from_stats([0.5] * 3, [0.5] * 3),
        bs=batch_size,
        num_workers=given.workers,
        device=torch.device("cpu"),
    )
    network = nn.Sequential(*parts(given.job, given.weights, loaders.c))
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            loaders,
            network,
            loss_func=CrossEntropyLossFlat(label_smoothing=smoothing),
            splitter=lambda model: [params(model[0]), params(model[1])],
            metrics=accuracy,
            wd=WEIGHT_DECAY,
            train_bn=False,
            cbs=BnFreeze(),
            path=folder,
        )
        learner.freeze()
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(given.epochs, lr, cbs=SaveModelCallback(monitor="accuracy"))
        train_seconds = time.perf_counter() - began
        best = max(row[-1] for row in learner.recorder.values)
        test = loaders.test_dl(get_image_files(given.data / "test"), with_labels=True)
        with learner.no_bar(), learner.no_logging():
            _loss, found = learner.validate(dl=test)
    measure.report(
        train_seconds=train_seconds,
        val=best,
        test=found,
        versions={"torch": torch.__version__, "fastai": version("fastai"), "timm": version("timm")},
    )


if __name__ == "__main__":
    main()
