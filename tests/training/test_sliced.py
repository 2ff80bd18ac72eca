"""A network computed in slices of the batch: the same outputs, gradients and statistics as computed whole."""

import copy
import threading

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import nn

from loupe.augment.pipeline import Augmenter
from loupe.config.network import BackboneSpec, CnnSpec, ConvBlock, Dense
from loupe.config.optimizer import Sgd
from loupe.config.recipe import AugmentSpec, Preprocessing, Stage
from loupe.data.pixels.batches import Batch
from loupe.devices import Compute
from loupe.models.build import build
from loupe.models.catalog import NETWORKS
from loupe.models.cnn import cnn, skeleton
from loupe.models.slices import Slice
from loupe.training import sliced as sliced_module
from loupe.training.sliced import SlicedNetwork, sliced
from loupe.training.train_step import TrainStep

CPU = torch.device("cpu")
FP32, BF16 = Compute(CPU, "fp32"), Compute(CPU, "bf16")
PREPROCESSING = Preprocessing(size_px=12, load_px=12)
IMAGES = 36


def network(dropout=0.0):
    spec = CnnSpec(
        name="small",
        blocks=(ConvBlock(filters=(6, 5), norm="each", dropout=dropout), ConvBlock(filters=(8,), norm="block")),
        hidden=(Dense(units=7, dropout=dropout),),
        init="he",
    )
    return cnn(spec, PREPROCESSING, ("a", "b", "c"), seed=1)


def inputs(images=IMAGES):
    random = torch.Generator().manual_seed(2)
    x_BCHW = torch.randn(images, 3, 12, 12, generator=random) + torch.arange(images)[:, None, None, None] / 20
    return x_BCHW.contiguous(memory_format=torch.channels_last), torch.arange(images) % 3


@pytest.fixture
def spins(monkeypatch):
    """A machine with two threads and no matrix units."""
    monkeypatch.setattr(sliced_module, "has_bf16_matrix_units", lambda device: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def passes(model, threads, images=IMAGES, compute=FP32):
    """Logits, gradients and buffers after one step forward and backward; whole with 0 threads."""
    x_BCHW, y_B = inputs(images)
    x_BCHW = x_BCHW.to(next(model.parameters()).dtype)
    if not threads:
        with compute.autocast():
            logits_BK = model.train()(x_BCHW)
        nn.functional.cross_entropy(logits_BK.to(x_BCHW.dtype), y_B).backward()
    else:
        parts = SlicedNetwork(model.train(), compute, 0, threads)
        logits_BK = parts.forward(x_BCHW, seed=3)
        nn.functional.cross_entropy(logits_BK.to(x_BCHW.dtype), y_B).backward()
        parts.backward(logits_BK)
    return [logits_BK.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_slices_give_what_the_whole_batch_gives(threads):
    whole, parts = network().double(), network().double()
    for mine, theirs in zip(passes(parts, threads), passes(whole, 0), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "backbone",
    ["test_resnet", "test_efficientnet", "test_vit", "test_nfnet", pytest.param("levit_128s", marks=pytest.mark.slow)],
)
def test_slices_of_timm_give_what_the_whole_batch_gives(backbone):
    size = Preprocessing(size_px=64, load_px=64)
    models = [build(BackboneSpec(backbone=backbone, weights="none"), size, ("a", "b"), seed=1) for _ in range(2)]
    x_BCHW = torch.randn(17, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for model, threads in zip(models, (0, 2), strict=True):
        model.double().train()
        parts = SlicedNetwork(model, FP32, 0, threads) if threads else None
        logits_BK = parts.forward(x_BCHW, seed=3) if parts else model(x_BCHW)
        logits_BK.square().sum().backward()
        if parts:
            parts.backward(logits_BK)
        found.append([logits_BK.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)  # resized positions are in float32


@pytest.mark.slow
def test_random_numbers_of_timm_are_those_of_the_slice(spins):
    spec = BackboneSpec(backbone="test_resnet", weights="none")
    results = []
    for _ in range(2):
        model = build(spec, Preprocessing(size_px=32, load_px=32), ("a", "b", "c"), seed=1)
        for block in model.modules():
            if hasattr(block, "drop_path"):
                block.drop_path = DropPath(0.5)
        train_step, weights = steps(model)
        assert train_step.sliced is not None
        results.append(weights)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results, strict=True))


def test_in_bf16_the_differences_are_those_of_rounding():
    exact, whole, parts = passes(network(), 0), passes(network(), 0, compute=BF16), passes(network(), 2, compute=BF16)

    def error(found):
        both = [(mine.float(), theirs.float()) for mine, theirs in zip(found, exact, strict=True)]
        return max(float((mine - theirs).norm() / (1e-3 + theirs.norm())) for mine, theirs in both)

    assert error(parts) < 2 * error(whole) + 0.01


def test_a_batch_of_few_images_is_one_slice():
    whole, parts = network().double(), network().double()
    for mine, theirs in zip(passes(parts, 4, images=9), passes(whole, 0, images=9), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def steps(model, **settings):
    """Weights after three steps of training in bf16."""
    stage = Stage(epochs=1, optimizer=Sgd(), lr=0.05, augment=AugmentSpec(horizontal_flip=True), **settings)
    train_step = TrainStep(model.train(), stage, Augmenter(stage.augment, model.preprocessing, 0), BF16, None)
    shape = (IMAGES, *model.preprocessing.size, 3)
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = Batch(torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2), torch.arange(IMAGES) % 3, np.arange(IMAGES))
    for step in range(3):
        train_step.step(batch, None, epoch=0, step=step, steps=step, lr=0.05)
    return train_step, [value.clone() for value in model.state_dict().values()]


def test_steps_of_slices_are_the_same_bits_each_time(spins):
    runs = [steps(network(dropout=0.3)) for _ in range(3)]
    assert all(train_step.sliced is not None for train_step, _ in runs)
    for _, weights in runs[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights, runs[0][1], strict=True))


def test_slices_learn_what_a_frozen_part_and_its_statistics_leave_to_them(spins):
    model = network()
    before = copy.deepcopy(model.state_dict())
    steps(model, part="last-block", batch_statistics=False)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("block1" not in name and "running" not in name for name in changed)


def test_each_slice_has_random_numbers_of_its_own():
    x_BCHW = inputs()[0][:1].expand(16, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    logits_BK = SlicedNetwork(network(dropout=0.5).train(), FP32, 0, 2).forward(x_BCHW, seed=3)
    assert not torch.equal(logits_BK[:8], logits_BK[8:])


def test_where_slices_do_not_pay_the_network_is_computed_whole(spins, monkeypatch):
    model = network()
    assert sliced(model, BF16, 0) is not None
    assert sliced(model, FP32, 0) is None
    for layer in (nn.Dropout2d(0.5), nn.Conv2d(8, 8, 3, groups=8)):  # the first draws inside PyTorch
        model.trunk.append(layer)
        assert sliced(model, BF16, 0) is None
        del model.trunk[-1]
    monkeypatch.setattr(sliced_module, "has_bf16_matrix_units", lambda device: True)
    assert sliced(network(), BF16, 0) is None


def test_an_error_in_one_slice_ends_all_and_is_told(monkeypatch):
    class WrongError(Exception):
        pass

    exchange = Slice.exchange

    def failing(self, value):
        if self._index == 1:
            raise WrongError
        return exchange(self, value)

    monkeypatch.setattr(Slice, "exchange", failing)
    parts = SlicedNetwork(network().train(), FP32, 0, 2)
    with pytest.raises(WrongError):
        parts.forward(inputs()[0], seed=3)
    monkeypatch.undo()
    assert parts.forward(inputs()[0], seed=3).shape == (IMAGES, 3)


def test_threads_end_with_the_network():
    before = set(threading.enumerate())
    parts = SlicedNetwork(network().train(), FP32, 0, 2)
    parts.forward(inputs()[0], seed=3)
    threads = set(threading.enumerate()) - before
    assert threads
    del parts
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_loupe_are_computed_in_slices(spins, name):
    model = skeleton(NETWORKS[name](), Preprocessing(size_px=64, load_px=64), ("a", "b"))
    assert isinstance(sliced(model, BF16, 0), SlicedNetwork)
