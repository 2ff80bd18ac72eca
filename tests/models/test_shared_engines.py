"""Engines that the parts of a process share: built once for equal blocks, and untouched by a later training."""

import pytest
import torch
from torch import nn

from loupe.config.size import Size
from loupe.devices import Compute
from loupe.models import engine as engines
from loupe.models.engine import Engines, EngineStore, shared_engines

CPU, SIZE = torch.device("cpu"), Size.of(8)


def blocks(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


def outputs(engine) -> torch.Tensor:
    x_BCHW = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8) / 400
    return torch.from_numpy(next(engine.run(iter([x_BCHW]))))


@pytest.mark.slow
def test_equal_blocks_share_an_engine_that_a_later_training_of_one_leaves_as_it_is():
    mine, theirs = blocks(), blocks()
    with shared_engines():
        first, _ = Engines().of(mine, Compute(CPU, "fp32"), SIZE)
        before = outputs(first)
        assert Engines().of(theirs, Compute(CPU, "fp32"), SIZE)[0] is first
        with torch.no_grad():
            mine[0].weight.add_(1.0)
        assert torch.equal(outputs(first), before)
        reduced, _ = Engines().of(theirs, Compute(CPU, "bf16"), SIZE)  # from the conversion that is kept
        assert torch.allclose(outputs(reduced), before, atol=0.05)
        changed, _ = Engines().of(mine, Compute(CPU, "fp32"), SIZE)
        assert changed is not first and not torch.equal(outputs(changed), before)
    assert Engines().of(theirs, Compute(CPU, "fp32"), SIZE)[0] is not first


def test_both_precisions_take_one_conversion(monkeypatch):
    pytest.importorskip("openvino")
    converted, convert = [], engines.traced_blocks
    monkeypatch.setattr(engines, "traced_blocks", lambda *given: (converted.append(1), convert(*given))[1])
    with shared_engines():
        full, _ = Engines().of(blocks(), Compute(CPU, "fp32"), SIZE)
        reduced, _ = Engines().of(blocks(), Compute(CPU, "bf16"), SIZE)
    assert len(converted) == 1 and full.name != reduced.name
    assert torch.allclose(outputs(full), outputs(reduced), atol=0.05)


@pytest.mark.slow
def test_the_engine_that_was_used_longest_ago_goes_first_where_the_weights_are_too_many():
    one = sum(value.numel() * value.element_size() for value in blocks().state_dict().values())
    store = EngineStore(most_bytes=2 * one)
    kept = [store.of(blocks(seed), Compute(CPU, "fp32"), SIZE, 3)[0] for seed in (0, 1)]
    store.of(blocks(0), Compute(CPU, "fp32"), SIZE, 3)
    store.of(blocks(2), Compute(CPU, "fp32"), SIZE, 3)
    assert store.of(blocks(0), Compute(CPU, "fp32"), SIZE, 3)[0] is kept[0]
    assert store.of(blocks(1), Compute(CPU, "fp32"), SIZE, 3)[0] is not kept[1]
