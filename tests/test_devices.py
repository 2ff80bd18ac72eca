"""What holds for all arithmetic of a process, without the devices that it is for."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from loupe.augment.pipeline import Augmenter
from loupe.comparison import plan
from loupe.comparison.candidates import Entry
from loupe.comparison.request import ComparisonRequest
from loupe.config.network import CnnSpec
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import load_images
from loupe.data.sources.open import open_table
from loupe.deadline import stopping_when
from loupe.devices import Compute, StopSignal
from loupe.errors import LoupeError
from loupe.models import torch_network
from loupe.models.build import build
from loupe.models.cnn import cnn
from loupe.recipes import catalog
from loupe.runs import predictor
from loupe.runs.options import RunOptions
from loupe.training.precision import TimedSteps
from loupe.training.train_step import TrainStep

SOURCE = Path(__file__).parents[1] / "src" / "loupe"


@pytest.fixture
def tf32():
    """TF32 is allowed, as PyTorch allows it to convolutions by default; afterwards it is as it was."""
    before = allowed()
    allow(True, True)
    yield
    allow(*before)


def allowed() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def allow(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_fp32_is_fp32_on_a_gpu_whatever_computes_there(tf32, device, precision):
    Compute(torch.device(device), precision)
    assert allowed() == (False, False)


def test_cudnn_has_algorithms_that_give_the_same_bits_each_time(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    Compute(torch.device("cpu"), "fp32")
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (True, False)
    Compute(torch.device("cuda"), "fp32")
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)


def test_another_precision_does_not_bring_tf32_back(tf32):
    for precision in ("fp32", "bf16"):  # as they take turns when they are timed
        Compute(torch.device("cuda"), precision)
    assert allowed() == (False, False)


def test_both_kinds_of_switches_can_be_read_afterwards(tf32):
    Compute(torch.device("cuda"), "fp32")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # reads the older ones
        pass
    if hasattr(torch.backends.cudnn, "conv"):
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
        assert torch.backends.cuda.matmul.fp32_precision != "tf32"


def test_whoever_loads_a_network_to_predict_keeps_freed_memory_first(monkeypatch):
    done = []
    network = cnn(CnnSpec(name="tiny", blocks=()), Preprocessing(size_px=8, load_px=8), ("a", "b"), seed=0)
    monkeypatch.setattr(torch_network, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(torch_network.bundle, "load", lambda *_: (done.append("loaded"), (network, "fp32"))[1])
    stored = predictor.Predictor(Path("model"), device="cpu")
    assert done == [], "before it is asked, nothing is done to the process"
    _ = stored.model, stored.model
    assert done == ["kept", "loaded"]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do with freed memory")
def test_freed_memory_that_is_kept_can_be_given_back():
    code = """
import resource
from pathlib import Path
from loupe.devices import give_back_memory, keep_freed_memory

def held():
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])

keep_freed_memory()
before = held()
pages = [bytearray(b"1" * 2**20) for _ in range(128)]
last = bytearray(b"1" * 2**20)  # above them: without it the heap would end lower by itself
del pages
kept = held() - before
give_back_memory()
print(kept > 2**26, held() - before < 2**25)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.fixture
def taken(monkeypatch) -> list[int]:
    """How many images each training step took; nothing is learned."""
    steps = []
    monkeypatch.setattr(TrainStep, "step", lambda self, batch, *_, **__: steps.append(len(batch)))
    return steps


def timed(train_N, images=None, batch_size=32, part="all"):
    recipe = catalog.recipe("digits-plain")
    table = open_table("digits")
    preprocessing = Preprocessing(size_px=8, load_px=8)
    images_20 = load_images(Dataset(None, table.select(np.arange(20))), preprocessing, cache=None, skip_damaged=False)
    stage = recipe.stages[0].model_copy(update={"batch_size": batch_size, "part": part})
    return TimedSteps(
        build(recipe.model, preprocessing, table.classes, 0),
        stage=stage,
        augmenter=Augmenter(stage.augment, preprocessing, 0),
        loader=BatchLoader(images_20.store, images_20.table.labels, torch.device("cpu")),
        train_N=train_N,
        weights_K=None,
        images=images,
    )


def test_a_step_of_a_whole_batch_takes_as_many_images_however_few_there_are(taken):
    timed(np.resize(np.arange(20), 64), images=64).first_step("fp32")
    assert taken == [64]


def test_a_step_that_is_timed_is_of_a_whole_batch_also_where_the_last_has_fewer_images(taken):
    timed(np.arange(20), batch_size=16).seconds("fp32")
    assert taken == [16] * 4
    taken.clear()
    timed(np.arange(20), batch_size=8).seconds("fp32")
    assert taken == [8] * 4


def test_a_step_on_activations_is_timed_on_a_whole_batch_where_one_on_images_is_not(taken, monkeypatch):
    monkeypatch.setattr("loupe.training.precision.TIMED_PIXELS", 1)
    timed(np.arange(20), batch_size=16).seconds("fp32")
    assert taken == [8] * 4, "few images, where they are large"
    taken.clear()
    timed(np.arange(20), batch_size=16, part="last-block").seconds("fp32")
    assert taken == [16] * 4


def test_a_plan_whose_whole_step_finds_no_memory_names_the_recipe_and_a_remedy(tmp_path, monkeypatch):
    def none_left(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(plan.Planner, "cost", none_left)
    entries = [Entry("digits-plain", catalog.recipe("digits-plain"))]
    with pytest.raises(LoupeError, match=r"not enough memory .*digits-plain needs more: set a smaller batch"):
        plan.estimate_costs(entries, open_dataset("digits"), ComparisonRequest(), RunOptions(tmp_path, "cpu"))


def test_elsewhere_nothing_is_switched(tf32):
    Compute(torch.device("cpu"), "fp32")
    assert allowed() == (True, True)


def test_only_devices_chooses_a_precision():
    texts = {path.name: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    users = {name for name, text in texts.items() if "torch.autocast" in text or "tf32" in text}
    assert users == {"devices.py"}


def test_a_condition_stops_work_as_a_signal_does_and_only_inside_of_its_context():
    over = list[bool]()
    stop = StopSignal()
    with stopping_when(lambda: bool(over)):
        assert not stop.received
        over.append(True)
        assert stop.is_asked and not stop.is_heeded
        assert stop.received and stop.is_heeded and not stop.is_sent
    assert not stop.is_asked


def test_a_signal_inside_of_work_that_saves_itself_is_heeded_at_once():
    outer, inner = StopSignal(), StopSignal()
    outer.is_heeded = True
    with outer, inner:
        assert inner.is_heeded
