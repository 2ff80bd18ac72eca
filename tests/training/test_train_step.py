"""One step of training against the same arithmetic written out."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from loupe.augment.pipeline import Augmenter
from loupe.config.network import CnnSpec, Dense
from loupe.config.optimizer import Sgd
from loupe.config.recipe import AugmentSpec, Preprocessing, Stage
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.data.pixels.read_ahead import ahead, steps_in
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute, fastest_precision
from loupe.models.cnn import cnn
from loupe.training.averaging import WeightAverage
from loupe.training.train_step import TrainStep

CPU = torch.device("cpu")
PIXELS = Preprocessing(size_px=4, load_px=4)
SPEC = CnnSpec(name="tiny", blocks=(), hidden=(Dense(units=8),))
CLASSES = ("a", "b", "c")


def train_step(stage: Stage, weights_K: torch.Tensor | None = None) -> TrainStep:
    model = cnn(SPEC, PIXELS, CLASSES, seed=0)
    return TrainStep(model, stage, Augmenter(stage.augment, PIXELS, 0), Compute(CPU, "fp32"), weights_K)


def batch(seed: int = 0, images: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 256, (images, 4, 4, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
    return Batch(x, torch.from_numpy(rng.integers(0, 3, images)), np.arange(images))


def step(made: TrainStep, given: Batch, partner: Batch | None = None, lr: float = 0.1) -> torch.Tensor:
    return made.step(given, partner, epoch=0, step=0, steps=0, lr=lr)


PLAIN = Sgd(momentum=0.0, nesterov=False)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_the_loss_and_the_step_are_those_written_out(smoothing, weights):
    """Weighted cross-entropy divided by the number of images, as Keras's class_weight does."""
    weights_K = None if weights is None else torch.tensor(weights)
    made = train_step(Stage(epochs=1, optimizer=PLAIN, label_smoothing=smoothing), weights_K)
    twin, given = copy.deepcopy(made.model), batch()
    logp_BK = F.log_softmax(twin(given.x_BCHW.float() / 255), dim=1)
    target_BK = F.one_hot(given.y_B, 3) * (1 - smoothing) + smoothing / 3
    loss_B = -(target_BK * logp_BK * (1.0 if weights_K is None else weights_K)).sum(1)
    loss_B.mean().backward()
    total, hits = step(made, given).tolist()
    assert total == pytest.approx(loss_B.sum().item(), rel=1e-5)
    assert hits == (logp_BK.argmax(1) == given.y_B).sum().item()
    for mine, theirs in zip(made.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, rtol=1e-5, atol=1e-6)


def test_mixed_images_learn_the_shares_of_both_classes():
    stage = Stage(epochs=1, optimizer=PLAIN, augment=AugmentSpec(mixup_alpha=1.0))
    made, given, other = train_step(stage), batch(0), batch(1)
    twin = copy.deepcopy(made.model)
    plain = [made.augmenter.train(part.x_BCHW, part.index_B, 0) for part in (given, other)]
    mixed_BCHW, weight_B = made.augmenter.mix(*plain, given.index_B, 0)
    share_B1 = weight_B[:, None]
    target_BK = share_B1 * F.one_hot(given.y_B, 3) + (1 - share_B1) * F.one_hot(other.y_B, 3)
    loss = -(target_BK * F.log_softmax(twin(mixed_BCHW), dim=1)).sum()
    assert step(made, given, other)[0].item() == pytest.approx(loss.item(), rel=1e-5)


def test_clipping_bounds_the_whole_gradient():
    before = train_step(Stage(epochs=1, optimizer=PLAIN, clip_norm=1e-3))
    start = copy.deepcopy(before.model)
    step(before, batch(), lr=1.0)
    moved = [(a - b).flatten() for a, b in zip(before.model.parameters(), start.parameters(), strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("steps", "left"), [(199, True), (200, False)])
def test_what_an_optimizer_remembers_in_subnormal_numbers_is_forgotten_every_hundred_steps(monkeypatch, steps, left):
    made = train_step(Stage(epochs=1, lr=0.1, optimizer=Sgd(momentum=0.9)))
    step(made, batch())
    buffers = [state["momentum_buffer"].fill_(1e-40) for state in made.optimizer.state.values()]
    monkeypatch.setattr(made.scaler, "step", lambda _: None)  # which would fill them anew
    made.step(batch(), None, epoch=0, step=0, steps=steps, lr=0.1)
    assert buffers
    assert all(bool(buffer.any()) == left for buffer in buffers)


def test_the_average_follows_its_formula():
    made = train_step(Stage(epochs=1, optimizer=PLAIN, ema_decay=0.9))
    expected = [parameter.detach().clone() for parameter in made.model.parameters()]
    for updates in range(12):
        made.step(batch(updates), None, epoch=0, step=updates, steps=updates, lr=0.1)
        d = min(0.9, (1 + updates) / (10 + updates))
        expected = [d * e + (1 - d) * p.detach() for e, p in zip(expected, made.model.parameters(), strict=True)]
    assert isinstance(made.average, WeightAverage)
    assert made.result is made.average.model
    for mine, theirs in zip(made.result.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("images", "size", "sizes"), [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (1, 3, [1]), (3, 3, [3])])
def test_no_batch_of_one_image_comes_last(images, size, sizes):
    feed = BatchLoader(RawStore(np.zeros((images, 2, 2, 3), np.uint8)), np.zeros(images, np.int64), CPU)
    order = np.arange(images)[::-1].copy()
    made = list(feed.batches(order, size))
    assert [len(part) for part in made] == sizes
    assert steps_in(images, size) == len(sizes)
    assert np.concatenate([part.index_B for part in made]).tolist() == order.tolist()
    later = [part.index_B.tolist() for part in feed.batches(order, size, first=1)]
    assert later == [part.index_B.tolist() for part in made[1:]]


def test_reading_ahead_keeps_the_order_passes_errors_on_and_can_be_left():
    assert list(ahead(iter(range(20)))) == list(range(20))

    def broken():
        yield 1
        raise ValueError("in the thread")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="in the thread"):
        next(items)
    endless = ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()


def test_auto_takes_a_reduced_precision_only_where_it_pays():
    times = {"fp32": 1.0, "bf16": 0.5}
    assert fastest_precision(("fp32", "bf16"), times.__getitem__)[0] == "bf16"
    times["bf16"] = 0.95
    chosen, reason = fastest_precision(("fp32", "bf16"), times.__getitem__)
    assert chosen == "fp32"
    assert "950 ms" in reason


@pytest.mark.parametrize(("slow", "chosen"), [(0, "bf16"), (1, "bf16"), (2, "fp32")])
def test_a_precision_that_is_faster_only_now_and_then_is_a_tie(slow, chosen):
    """A median of five can be fast where two of the five are not."""
    reduced = iter([1.0] * slow + [0.5] * (5 - slow))
    assert fastest_precision(("fp32", "bf16"), lambda name: 1.0 if name == "fp32" else next(reduced))[0] == chosen


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_l2_term_is_that_of_the_network_which_is_evaluated(ema):
    """Keras adds l2 · Σw² over the kernels to the loss that it calls val_loss."""
    made = train_step(Stage(epochs=1, optimizer=PLAIN, l2=0.01, ema_decay=ema))
    step(made, batch())
    kernels = [value for name, value in made.result.named_parameters() if name.endswith("weight")]
    assert made.penalty() == pytest.approx(0.01 * sum((kernel**2).sum().item() for kernel in kernels), rel=1e-6)
    assert train_step(Stage(epochs=1)).penalty() == 0
