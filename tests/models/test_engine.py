"""What a GPU is given and when it is waited for, and which part of a run is timed there; none is needed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from loupe.config.recipe import Preprocessing, Stage
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute
from loupe.models.classifier import Classifier
from loupe.models.engine import TorchEngine
from loupe.training import precision

PIXELS = Preprocessing(size_px=8, load_px=8)
GPU = torch.device("cuda")


@pytest.fixture
def blocks():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def inputs(count=5):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2 + k, 3, 8, 8, generator=generator) for k in range(count)]


def test_on_a_cpu_each_batch_is_there_before_the_next_is_asked_for(blocks):
    asked = []

    def given():
        for number, x in enumerate(inputs()):
            asked.append(number)
            yield x

    answers = TorchEngine(blocks, Compute(torch.device("cpu"), "fp32")).run(given())
    for number, x in enumerate(inputs()):
        with torch.no_grad():
            wanted = blocks(x).permute(0, 2, 3, 1)
        np.testing.assert_array_equal(next(answers), wanted)
        assert asked[-1] == number
    assert next(answers, None) is None


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_gpu_has_the_next_batch_before_an_answer_is_waited_for(blocks, monkeypatch, count):
    done = []

    class Event:
        def __init__(self):
            self.number = sum(what == "begun" for what, _ in done)
            done.append(("begun", self.number))

        def record(self, stream):
            assert stream == "stream of cuda"

        def synchronize(self):
            done.append(("waited", self.number))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    answers = list(TorchEngine(blocks, Compute(GPU, "fp32")).run(iter(inputs(count))))
    reference = list(TorchEngine(blocks, Compute(torch.device("cpu"), "fp32")).run(iter(inputs(count))))
    assert len(answers) == count
    for mine, theirs in zip(answers, reference, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [number for what, number in done if what == "waited"] == list(range(count)), "each once, in order"
    for number in range(count - 1):
        assert done.index(("begun", number + 1)) < done.index(("waited", number))
        assert ("begun", number + 2) not in done[: done.index(("waited", number))], "two at most"


@pytest.fixture
def passes(blocks, monkeypatch, tmp_path):
    """The images that went through the trunk in each precision while it was timed as on a GPU, and the choice."""
    seen = []
    blocks[0].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 3))
    model = Classifier(trunk=blocks, head=head, preprocessing=PIXELS, classes=("a", "b", "c"))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    feed = BatchLoader(RawStore(pixels), np.arange(50) % 3, torch.device("cpu"))
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    monkeypatch.setattr(Compute, "synchronize", lambda _: None)
    monkeypatch.setattr(precision, "precisions", lambda _: ("fp32",))

    def resolved(part, device):
        on = SimpleNamespace(device=device, batches=feed.batches)
        stage = Stage(epochs=1, part=part, batch_size=8)
        rows_N = np.arange(50)
        said = precision.resolve(
            "auto", model, network="toy", stage=stage, loader=on, train_N=rows_N, class_weights_K=None
        )
        return said, seen

    return resolved


def test_where_only_the_head_learns_a_gpu_is_timed_on_what_is_frozen(passes):
    (chosen, reason), seen = passes("head", GPU)
    assert chosen == "fp32"
    assert set(seen) == {precision.PASS_BATCH}
    assert len(seen) == 5 * (1 + precision.TIMED_STEPS), "five times, and nothing of the head's training"
    assert "32 images through the frozen blocks takes fp32" in reason


def test_a_head_on_a_cpu_is_computed_in_fp32_and_nothing_is_timed(passes):
    (chosen, reason), seen = passes("head", torch.device("cpu"))
    assert (chosen, reason, seen) == ("fp32", "precision fp32: only the head is trained", [])


def test_where_all_learns_its_steps_are_timed(passes):
    (_, reason), seen = passes("all", torch.device("cpu"))
    assert set(seen) == {8}
    assert "a step takes" in reason
