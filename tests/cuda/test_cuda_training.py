"""Training on a simulated GPU: nothing mixes devices, and the numbers are those of the CPU."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.network import CnnSpec, ConvBlock, Dense
from loupe.config.optimizer import Adam, Logistic, Muon, RmsProp, Sgd
from loupe.config.recipe import AugmentSpec, Preprocessing, Stage
from loupe.config.resolved import ResolvedStage
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute, StopSignal
from loupe.evaluate import inference
from loupe.models.cnn import cnn
from loupe.models.engine import Engines, TorchEngine, digest_of
from loupe.ranks import Ranks
from loupe.training import logistic, solver
from loupe.training.activation_loader import on_device
from loupe.training.agreement import Agreement
from loupe.training.checkpoint import read, write
from loupe.training.frozen import FrozenPass
from loupe.training.precision import resolve, resolve_frozen
from loupe.training.stage_data import StageData
from loupe.training.train_step import TrainStep

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIDE, CLASSES = 8, ("a", "b", "c")
PIXELS = Preprocessing(size_px=SIDE, load_px=SIDE + 1, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
SPEC = CnnSpec(
    name="tiny",
    blocks=(ConvBlock(filters=(4,), norm="each"), ConvBlock(filters=(6,), norm="each")),
    hidden=(Dense(units=7),),
)
AUGMENTS = {
    "none": {},
    "affine": {"rotation_degrees": 15, "width_shift": 0.1, "zoom": (0.9, 1.1), "shear_degrees": 5, "fill": "reflect"},
    "affine, constant": {"rotation_degrees": 15, "fill": "constant", "fill_value": 9, "brightness": (0.5, 1.5)},
    "affine, wrap": {"height_shift": 0.2, "fill": "wrap"},
    "flips and crop": {"horizontal_flip": True, "vertical_flip": True, "crop_padding_px": 2, "cutout_px": 3},
    "resized crop": {"random_resized_crop": (0.3, 1.0)},
}
MIXES = {"mixup": {"mixup_alpha": 0.4}, "cutmix": {"cutmix_alpha": 1.0}, "both": {"mixup_alpha": 1, "cutmix_alpha": 1}}
STAGES = {
    "sgd": {"optimizer": Sgd(), "clip_norm": 0.1},
    "adamw": {"optimizer": Adam(), "weight_decay": 0.01, "label_smoothing": 0.1},
    "layer decay": {"optimizer": Adam(), "layer_decay": 0.5, "loss": {"name": "focal"}},
    "muon": {"optimizer": Muon(), "weight_decay": 0.01, "ema_decay": 0.9},
    "rmsprop": {"optimizer": RmsProp(momentum=0.9), "l2": 1e-4},
    "rmsprop of keras": {"optimizer": RmsProp(epsilon_in_root=True, momentum=0.9), "l2": 1e-4, "decay_all": True},
    "last block": {"optimizer": Adam(), "part": "last-block", "batch_statistics": False},
    "mixed": {"optimizer": Sgd(), "augment": AugmentSpec(mixup_alpha=1, cutmix_alpha=1)},
}


def images(count: int = 12) -> tuple[RawStore, np.ndarray]:
    random = np.random.default_rng(0)
    return RawStore(random.integers(0, 256, (count, SIDE + 1, SIDE + 1, 3), np.uint8)), np.arange(count) % len(CLASSES)


def loader(device: torch.device, resident_bytes: int | None = None) -> BatchLoader:
    return BatchLoader(*images(), device, resident_bytes=resident_bytes)


def batches(device: torch.device) -> tuple[Batch, Batch]:
    first, second = loader(device).batches(np.arange(12), 6)
    return first, second


@pytest.mark.parametrize("name", AUGMENTS)
def test_augmentation_is_that_of_the_cpu(simulated, name):
    augmenter = Augmenter(AugmentSpec(**AUGMENTS[name]), PIXELS, seed=3)
    on_gpu, on_cpu = (augmenter.train(one.x_BCHW, one.index_B, epoch=1) for one in (batches(GPU)[0], batches(CPU)[0]))
    assert on_gpu.device.type == "cuda" and torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("name", MIXES)
def test_mixtures_are_those_of_the_cpu(simulated, name):
    augmenter = Augmenter(AugmentSpec(**MIXES[name]), PIXELS, seed=3)
    made = []
    for device in (GPU, CPU):
        views = [evaluation_view(batch.x_BCHW, PIXELS) for batch in batches(device)]
        made.append(augmenter.mix(*views, np.arange(6), epoch=0))
    for on_gpu, on_cpu in zip(*made, strict=True):
        assert on_gpu.device.type == "cuda" and torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("resident_bytes", [None, 0])
def test_batches_are_those_of_the_cpu_whether_the_pixels_stay_on_the_gpu_or_not(simulated, monkeypatch, resident_bytes):
    monkeypatch.setattr("loupe.data.pixels.batches.COPIED_BYTES", 5 * 3 * (SIDE + 1) ** 2)  # five images at a time
    order = np.arange(12)[::-1].copy()
    pairs = zip(loader(GPU, resident_bytes).batches(order, 5), loader(CPU).batches(order, 5), strict=True)
    for on_gpu, on_cpu in pairs:
        assert on_gpu.x_BCHW.device.type == on_gpu.y_B.device.type == "cuda"
        assert torch.equal(on_gpu.x_BCHW.cpu(), on_cpu.x_BCHW) and torch.equal(on_gpu.y_B.cpu(), on_cpu.y_B)


def steps(device: torch.device, stage: Stage, precision: str = "fp32") -> tuple[TrainStep, list[float]]:
    model = cnn(SPEC, PIXELS, CLASSES, seed=0).to(device)
    weights_K = torch.tensor([0.5, 1.0, 2.0], device=device)
    made = TrainStep(model, stage, Augmenter(stage.augment, PIXELS, 0), Compute(device, precision), weights_K)
    first, second = batches(device)
    partner = second if stage.augment.mixes else None
    sums = [made.step(first, partner, epoch=0, step=step, steps=step, lr=0.01) for step in range(3)]
    return made, [value for one in sums for value in one.tolist()]


@pytest.mark.parametrize("name", STAGES)
def test_training_steps_are_those_of_the_cpu(simulated, name, tmp_path):
    stage = Stage(epochs=1, **STAGES[name])
    (on_gpu, losses), (on_cpu, expected) = steps(GPU, stage), steps(CPU, stage)
    assert losses == expected
    assert on_gpu.penalty() == on_cpu.penalty()
    for mine, theirs in zip(on_gpu.result.state_dict().values(), on_cpu.result.state_dict().values(), strict=True):
        assert mine.device.type == "cuda" and torch.equal(mine.cpu(), theirs)
    write(tmp_path / "saved", on_gpu.state())
    restored, _ = steps(GPU, stage)
    restored.restore(read(tmp_path / "saved"))
    first, second = batches(GPU)
    partner = second if stage.augment.mixes else None
    one, other = (made.step(first, partner, epoch=0, step=3, steps=3, lr=0.01) for made in (on_gpu, restored))
    assert one.tolist() == other.tolist()
    pairs = zip(on_gpu.model.state_dict().values(), restored.model.state_dict().values(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_that_of_the_gpu(simulated, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    made, losses = steps(GPU, Stage(epochs=1, optimizer=Sgd(), clip_norm=1.0), precision)
    assert made.scaler.is_enabled() == (precision == "fp16")
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("part", ["all", "last-block", "head"])
def test_precision_is_chosen_from_timed_steps(simulated, monkeypatch, tmp_path, part):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))  # where nothing is settled
    stage = Stage(epochs=1, part=part, batch_size=4)
    model = cnn(SPEC, PIXELS, CLASSES, seed=0).to(GPU)
    order = np.arange(12)
    options = {"network": "toy", "loader": loader(GPU), "train_N": order, "class_weights_K": None}
    chosen, _ = resolve("auto", model, stage=stage, **options)
    assert chosen in {"fp32", "bf16"}
    frozen = {"asked": "auto", "run": chosen, "model": model, "loader": loader(GPU), "rows_N": order}
    assert resolve_frozen("auto", **frozen, engines=Engines()) == (chosen, "")


@pytest.mark.parametrize("first_block", [0, 1])
def test_evaluation_is_that_of_the_cpu(simulated, first_block):
    found = []
    for device in (GPU, CPU):
        model = cnn(SPEC, PIXELS, CLASSES, seed=0).to(device)
        given = loader(device)
        if first_block:
            rows = [model.trunk[0].eval()(evaluation_view(b.x_BCHW, PIXELS)).detach() for b in batches(device)]
            given = [replace(batch, x_BCHW=x) for batch, x in zip(batches(device), rows, strict=True)]
            given = type("Activations", (), {"batches": lambda self, *_, rows=given: iter(rows)})()
        found.append(inference.logits(model, given, np.arange(12), Compute(device, "fp32"), first_block))
    assert np.array_equal(*found)


def test_an_engine_gives_outputs_that_have_arrived_in_order(simulated):
    blocks = cnn(SPEC, PIXELS, CLASSES, seed=0).eval().trunk
    views = [evaluation_view(batch.x_BCHW, PIXELS) for batch in loader(CPU).batches(np.arange(12), 3)]
    expected = list(TorchEngine(blocks, Compute(CPU, "fp32")).run(iter(views)))
    on_gpu = TorchEngine(copy.deepcopy(blocks).to(GPU), Compute(GPU, "fp32"))
    for mine, theirs in zip(on_gpu.run(view.to(GPU) for view in views), expected, strict=True):
        assert np.array_equal(mine, theirs)


def test_blocks_have_one_digest_on_all_devices(simulated):
    blocks = cnn(SPEC, PIXELS, CLASSES, seed=0).trunk
    assert digest_of(blocks) == digest_of(copy.deepcopy(blocks).to(GPU))


@pytest.mark.parametrize("room", [2**20, 0])
def test_a_frozen_pass_feeds_the_rest_of_the_network(simulated, tmp_path, monkeypatch, room):
    monkeypatch.setattr("loupe.training.frozen.room_bytes", lambda _: room)
    model = cnn(SPEC, PIXELS, CLASSES, seed=0).to(GPU)
    model.learn("last-block")
    given = loader(GPU)
    content = tuple(str(number) for number in range(12))
    frozen = FrozenPass(model, "tiny", given, content, tmp_path, Compute(GPU, "fp32"), StopSignal())
    augmenter = Augmenter(AugmentSpec(width_shift=0.1), PIXELS, 0)
    for cached in (frozen.evaluation(np.arange(12)), frozen.augmented(augmenter, range(2), np.arange(12))):
        assert cached is not None
        views = [view.device.type for view in cached.views]
        assert set(views) == {"cuda" if room else "cpu"}
        for batch in cached.at(1).batches(np.arange(12), 4):
            assert batch.x_BCHW.device.type == batch.y_B.device.type == "cuda"
            assert model(batch.x_BCHW, model.frozen).device.type == "cuda"


def test_views_that_fit_are_copied_to_the_gpu(simulated):
    views = [np.zeros(size, np.float32) for size in (10, 30, 15)]
    assert [view.device.type for view in on_device(views, GPU, 120)] == ["cuda", "cpu", "cuda"]


@pytest.mark.parametrize("room", [2**20, 0])
@pytest.mark.parametrize("weighted", [False, True])
def test_heads_are_solved_as_on_the_cpu(simulated, monkeypatch, room, weighted):
    """On the GPU, and on the CPU if its memory is too small for the features; the second class has no images."""
    monkeypatch.setattr("loupe.training.solver.room_bytes", lambda _: room)
    store, label_N = images()
    train_N = np.flatnonzero(label_N != 1)
    spec = SPEC.model_copy(update={"hidden": ()})
    stage = ResolvedStage(epochs=2, part="head", optimizer=Logistic(), views=1)
    heads = []
    for device in (GPU, CPU):
        model = cnn(spec, PIXELS, CLASSES, seed=0).to(device)
        weights_K = torch.tensor([0.5, 1.0, 2.0], device=device) if weighted else None
        augmenter = Augmenter(AugmentSpec(), PIXELS, 0)
        train_step = TrainStep(model, stage, augmenter, Compute(device, "fp32"), weights_K)
        given = BatchLoader(store, label_N, device)
        agreement = Agreement(Ranks(), StopSignal())
        solving = solver.Solver(train_step, StageData(given, given, augmenter), train_N, 0, agreement)
        assert solving.regression.features_NC.device.type == ("cuda" if room and device == GPU else "cpu")
        heads.append(
            [solving.solve(strengths) for strengths in ([1e4, 1.0], [1e4])] + [model.head[-1].weight.detach().cpu()]
        )
        assert model.head[-1].weight.device.type == device.type
    assert heads[0][:2] == heads[1][:2]
    assert torch.equal(heads[0][2], heads[1][2])


@pytest.mark.parametrize("rows", [30, 6])
def test_axes_of_many_and_of_few_images_are_found_on_the_gpu(simulated, rows):
    assert logistic.expected_seconds(rows, 8, 3, 2, GPU) > 0
    features_NC = torch.randn(rows, 8)
    found = logistic.axes(features_NC.to(GPU))
    torch.testing.assert_close(found.variance_R.cpu(), logistic.axes(features_NC).variance_R)


def test_dropout_of_a_network_runs_on_the_gpu(simulated):
    spec = SPEC.model_copy(update={"hidden": (Dense(units=7, dropout=0.5),)})
    model = cnn(spec, PIXELS, CLASSES, seed=0).to(GPU).train()
    assert any(isinstance(layer, nn.Dropout) for layer in model.modules())
    assert model(evaluation_view(batches(GPU)[0].x_BCHW, PIXELS)).device.type == "cuda"
