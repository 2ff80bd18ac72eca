"""Whole commands on a simulated GPU: training, resuming, prediction, explanation, label audit, plans, doctor."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import loupe
from builders import save_photos
from child_processes import killed_in_step
from loupe.comparison.cost import Planner
from loupe.config.recipe import SplitSpec
from loupe.data.dataset import Dataset
from loupe.data.sources.open import open_table
from loupe.data.splits.split import assign
from loupe.devices import choose_device, gpu_name
from loupe.doctor import speed
from loupe.errors import ConfigError, NotEnoughMemoryError
from loupe.explain.filters import AscentSettings
from loupe.labels.find import LabelOptions, check_labels
from loupe.recipes.resolve import resolve

pytestmark = pytest.mark.usefixtures("bare")
BACKBONE = {"model.backbone": "test_resnet", "model.weights": "none", "input.size_px": 32, "input.load_px": 32}


def digits(images: int = 96) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return (bunch.images[:images] * 15.9375).astype(np.uint8), bunch.target[:images]


def trained(output, device: str, name: str | None = None, **settings: object) -> loupe.Run:
    stage = {"epochs": 2, "batch_size": 32, "lr": 3e-3, "augment": {"width_shift": 0.1}, **settings.pop("stage", {})}
    return loupe.train(
        digits(),
        recipe="digits",
        model="lecture-cnn",  # without dropout, whose random numbers differ between devices
        settings={"stages": [stage], "precision": "fp32", "class_weights": "balanced", **settings},
        output=output,
        name=name or device,
        device=device,
        quiet=True,
    )


def history(run: loupe.Run) -> list[list[str]]:
    rows = [line.split(",") for line in (run.path / "metrics.csv").read_text().splitlines()]
    timed = [rows[0].index(name) for name in ("seconds", "images_per_second")]
    return [[cell for number, cell in enumerate(row) if number not in timed] for row in rows]


STAGES = {
    "all": {},
    "last block": {"part": "last-block", "views": 2},
    "fresh views": {"part": "last-block", "views": "fresh", "ema_decay": 0.9},
    "mixed": {"augment": {"mixup_alpha": 0.2}},
}
SLOW = ("fresh views", "mixed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all", "last block", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_run_has_the_figures_of_the_cpu(simulated, tmp_path, monkeypatch, name):
    runs = []
    for device in ("cuda", "cpu"):
        monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / device))
        runs.append(trained(tmp_path / "runs", device, stage=STAGES[name]))
    on_gpu, on_cpu = runs
    assert simulated.operations > 100 and on_gpu.results.device == "cuda"
    assert next(on_gpu.model.parameters()).device.type == "cuda"
    assert history(on_gpu) == history(on_cpu)
    assert on_gpu.results.test == on_cpu.results.test
    assert on_gpu.predict(digits(20)[0]) == on_cpu.predict(digits(20)[0])
    np.testing.assert_array_equal(on_gpu.predict_proba(digits(20)[0]), on_cpu.predict_proba(digits(20)[0]))


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_bits(simulated, tmp_path):
    whole = trained(tmp_path, "cuda", "whole")

    with killed_in_step(6):
        trained(tmp_path, "cuda", "killed")
    resumed = loupe.resume(tmp_path / "killed", digits(), quiet=True)
    assert history(resumed) == history(whole)
    pairs = zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", ("cat", "dog"), each=16, side=(40, 36))


@pytest.mark.slow
def test_a_solved_head_predicts_evaluates_and_explains(simulated, photos, tmp_path, monkeypatch):
    pytest.importorskip("captum")
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    options = {"settings": BACKBONE | {"stages.0.epochs": 2}, "output": tmp_path / "runs", "quiet": True}
    run = loupe.train(photos, recipe="features", device="cuda", **options)
    assert run.evaluate("val").images == run.results.images.val
    assert len(run.predict(photos / "cat")) == 16 and run.images_per_second() > 0
    [explained, *_] = run.explain(photos / "dog" / "1.jpg")
    assert explained.maps and explained.pixels.shape == (32, 32, 3)
    assert len(run.filters(count=1, ascent=AscentSettings(steps=2))) == 3


def test_labels_are_audited_on_the_gpu(simulated, photos, tmp_path, monkeypatch):
    pytest.importorskip("cleanlab")
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    options = LabelOptions(model="test_resnet", weights="none", size_px=32, number_of_folds=3)
    report = check_labels(photos, options, device="cuda", quiet=True)
    assert simulated.operations > 50 and len(report.given_N) > 20


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["digits", pytest.param("features", marks=pytest.mark.slow), "last-block"])
def test_costs_are_planned_on_the_gpu(simulated, tmp_path, monkeypatch, recipe):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    dataset = Dataset(None, open_table("digits").select(np.arange(0, 1797, 15)))
    flags = dict.fromkeys(("epochs", "batch_size", "lr", "seed", "precision"))
    backbone = {} if recipe == "digits" else BACKBONE
    chosen = resolve(recipe, dataset, model=None, flags=flags, extra=backbone)
    split = assign(dataset.table, dataset.hashes, SplitSpec(), 0)
    cost = Planner(dataset.table, split, choose_device("cuda")).cost(chosen)
    assert cost.seconds > 0 and cost.memory_bytes == torch.cuda.max_memory_allocated()


def test_speeds_are_measured_on_the_gpu(simulated, monkeypatch):
    monkeypatch.setattr(speed, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(speed, "SIDE", {"cpu": 8, "cuda": 8})
    found = [*speed.products(), *speed.training()]
    assert [finding.name for finding in found] == ["products, cpu", "products, cuda", "training"]
    assert found[-1].data["device"] == "cuda"


def test_devices_are_chosen_by_name_and_number(simulated):
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert gpu_name(choose_device("cuda:0")) == "simulated GPU"
    with pytest.raises(ConfigError, match="1 GPU"):
        choose_device("cuda:1")


@pytest.mark.parametrize("room", [0, 20, 300])
def test_training_in_too_little_memory_is_one_error_with_the_remedy(simulated, tmp_path, room):
    simulated.room = room
    with pytest.raises(NotEnoughMemoryError, match="--batch-size 16"):
        trained(tmp_path, "cuda")


def test_a_finished_network_in_too_little_memory_is_one_error(simulated, photos, tmp_path, monkeypatch):
    pytest.importorskip("captum")
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    options = {"settings": BACKBONE | {"stages.0.epochs": 1}, "output": tmp_path / "runs", "quiet": True}
    run = loupe.train(photos, recipe="features", device="cuda", **options)
    assert next(run.model.parameters()).device.type == "cuda"
    audit = LabelOptions(model="test_resnet", weights="none", size_px=48, number_of_folds=3)
    for work in (
        lambda: run.predict(photos / "cat"),
        lambda: run.explain(photos / "cat"),
        lambda: run.filters(count=1),
        lambda: check_labels(photos, audit, device="cuda", quiet=True),
    ):
        simulated.room = 3
        with pytest.raises(NotEnoughMemoryError):
            work()
