"""Trainings of tiny networks on digits over several ranks, for tests; each rank calls the functions here."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from loupe.augment.pipeline import Augmenter
from loupe.config.network import CnnSpec, ConvBlock, Dense
from loupe.config.recipe import Preprocessing
from loupe.config.resolved import ResolvedStage
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute, StopSignal
from loupe.evaluate import inference
from loupe.models.cnn import cnn
from loupe.ranks import LostRankError
from loupe.training import loop
from loupe.training.activation_loader import ActivationLoader, CyclicAugment, IdentityAugment
from loupe.training.checkpoint import Checkpoints
from loupe.training.loop import Trainer
from loupe.training.stage_data import StageData, views_of
from loupe.training.train_step import TrainStep

CPU = torch.device("cpu")
PIXELS = Preprocessing(size_px=8, load_px=8)
CLASSES = tuple("0123456789")
WEIGHTS_K = torch.linspace(0.5, 2.0, 10)
VALIDATION_N = np.arange(1000, 1100)
MOVED = {"width_shift": 0.1, "rotation_degrees": 10, "horizontal_flip": True, "cutout_px": 2}
EVERYTHING = {
    **{"batch_size": 32, "l2": 1e-4, "weight_decay": 1e-3, "clip_norm": 1.0, "label_smoothing": 0.1, "ema_decay": 0.9},
    "augment": {**MOVED, "mixup_alpha": 0.4, "cutmix_alpha": 1.0},
}
# Name of a case: norm of the network, number of training images, stages. 203 images make a last batch of 11, and 194
# one of 2, which four ranks cannot share.
CASES = {
    "adam": ("none", 203, [{"epochs": 1, **EVERYTHING}]),
    "sgd": ("none", 194, [{"epochs": 1, **EVERYTHING, "optimizer": "sgd", "lr": 0.05}]),
    "muon": ("none", 203, [{"epochs": 1, "batch_size": 50, "optimizer": {"name": "muon"}}]),
    "norm": ("each", 203, [{"epochs": 2, "batch_size": 24, "optimizer": "sgd", "lr": 0.05, "augment": MOVED}]),
    "always": ("each", 203, [{"epochs": 1, "batch_size": 96, "optimizer": "sgd", "batch_norm_sync": True}]),
    "never": ("each", 203, [{"epochs": 1, "batch_size": 64, "optimizer": "sgd", "batch_norm_sync": False}]),
    "solved": (
        "each",
        203,
        [
            {"epochs": 1, "batch_size": 20},
            {"epochs": 3, "part": "head", "optimizer": "logistic", "augment": MOVED, "views": 2},
        ],
    ),
    "features": (
        "none",
        203,
        [{"epochs": 3, "part": "head", "batch_size": 64, "augment": MOVED, "views": 2, "optimizer": "sgd"}],
    ),
}


def model_of(norm, hidden=True):
    blocks = tuple(ConvBlock(filters=(filters,), norm=norm, dropout=0.2) for filters in (6, 8))
    units = (Dense(units=16, dropout=0.4),) if hidden else ()
    return cnn(CnnSpec(name="tiny", blocks=blocks, hidden=units, init="he"), PIXELS, CLASSES, seed=1)


def loader():
    digits = load_digits()
    pixels = np.repeat((digits.images * 15.9375).astype(np.uint8)[..., None], 3, axis=-1)
    return BatchLoader(RawStore(pixels), digits.target, CPU)


def prepared(model, given, stage, first_epoch, last):
    """Inputs of a stage: images; cached features for a head trained in steps, and views in turn for a solved one."""
    model.learn(stage.part)
    augmenter = Augmenter(stage.augment, PIXELS, 0)
    if stage.is_solved:
        return StageData(given, given, CyclicAugment(augmenter, first_epoch, 2), views=views_of(stage))
    if stage.part != "head":
        return StageData(given, given, augmenter)
    rows_N, views, first = np.arange(len(given.labels_N)), [], len(model.trunk)
    with torch.inference_mode():
        for epoch in range(first_epoch, first_epoch + 2):
            batches = given.batches(rows_N, len(rows_N))
            views += [model.trunk.eval()(augmenter.train(batch.x_BCHW, rows_N, epoch)) for batch in batches]
    model.train()
    cached = tuple(view.permute(0, 2, 3, 1).contiguous() for view in views)
    features = ActivationLoader(cached, rows_N, given.labels_N, CPU, first_epoch)
    return StageData(features, given, IdentityAugment(0), first=first)


def trainer(joined, folder, case, steps=None, stop=None):
    """Trainer of a case; each of its steps notes the images, their inputs and targets in `steps`."""
    norm, images, stages = CASES[case]
    model, given = model_of(norm, hidden=case != "solved"), loader()
    found = Trainer(
        model,
        stages=[ResolvedStage.model_validate({"views": 1, **stage}) for stage in stages],
        prepare=partial(prepared, model, given),
        train_N=np.random.default_rng(0).permutation(1000)[:images],
        validate=lambda network, data: inference.scores(
            inference.logits(network, given, VALIDATION_N, Compute(CPU, "fp32"), 0),
            given.labels_N.numpy()[VALIDATION_N],
        ),
        checkpoints=Checkpoints(Path(folder)),
        on_epoch=lambda history: None,
        compute=Compute(CPU, "fp32"),
        class_weights_K=WEIGHTS_K,
        monitor="val_accuracy",
        keep_best=False,
        stop=stop or StopSignal(),
        ranks=joined,
    )
    if steps is not None:
        note(found, steps)
    return found


def note(found, steps):
    """Have each step of a trainer note its images, inputs and targets."""
    inputs = TrainStep._inputs

    def noted(self, batch, partner, epoch):
        x, target = inputs(self, batch, partner, epoch)
        partners = [] if partner is None else partner.index_B.tolist()
        steps.append((batch.index_B.tolist(), partners, x.numpy().copy(), target.numpy().copy()))
        return x, target

    def train_epoch(train_step, loader):
        train_step._inputs = noted.__get__(train_step)
        return Trainer.train_epoch(found, train_step, loader)

    found.train_epoch = train_epoch


def fit(joined, folder, cases):
    """Train each case; write weights, buffers and steps to a file of this rank; return the curves."""
    curves = {}
    for case in cases:
        steps = []
        found = trainer(joined, Path(folder) / f"{case}-{joined.count}", case, steps)
        found.fit()
        save(found, steps, Path(folder) / f"{case}-{joined.count}-{joined.rank}.npz")
        curves[case] = found.state.history
    return curves


def save(found, steps, path):
    state = {f"weight {name}": value.numpy() for name, value in found.model.state_dict().items()}
    for number, parts in enumerate(steps):
        names = ("images", "partners", "inputs", "targets")
        state |= {f"{name} {number}": np.asarray(part) for name, part in zip(names, parts, strict=True)}
    np.savez(path, **state)


def stopped(joined, folder, case, at, rank):
    """Train until one rank is asked to stop in step `at`; return the position, and the signal that each rank knows."""
    stop, step, calls = StopSignal(), TrainStep.step, []

    def stopping(self, *args, **where):
        calls.append(where["step"])
        if joined.rank == rank and where["step"] == at:
            stop.request(15)
        return step(self, *args, **where)

    TrainStep.step = stopping
    state = trainer(joined, folder, case, stop=stop).fit()
    return {"stage": state.stage, "step": state.step, "sums": state.sums, "signal": stop.number, "calls": len(calls)}


def killed(joined, folder, case, at, rank):
    """Train, saving after each step, until one rank ends without a word; return the error of the others."""
    step = TrainStep.step

    def dying(self, *args, **where):
        if joined.rank == rank and where["step"] == at:
            print('"ended"', flush=True)
            os._exit(0)
        return step(self, *args, **where)

    TrainStep.step, loop.SAVE_EVERY_SECONDS = dying, 0.0
    try:
        trainer(joined, folder, case).fit()
    except LostRankError as error:
        return type(error).__name__
    return None


def stopped_and_whole(joined, folder, case, at):
    """Train, stop in step `at` and go on; train without a stop; return True if both have the same bits."""
    step = TrainStep.step
    stopped(joined, f"{folder}/cut", case, at, 0)
    TrainStep.step = step
    pair = [trainer(joined, f"{folder}/{name}", case) for name in ("cut", "whole")]
    for found in pair:
        found.fit()
    cut, whole = (found.model.state_dict() for found in pair)
    return all(torch.equal(cut[name], value) for name, value in whole.items())


def resumed(joined, folder, case, name):
    """Train the rest of a case from its checkpoint on, as `fit` does."""
    steps = []
    found = trainer(joined, folder, case, steps)
    found.fit()
    save(found, steps, Path(folder) / f"{name}-{joined.rank}.npz")
    return found.state.history
