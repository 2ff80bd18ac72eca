"""Heads on the features of all backbones at hand together."""

import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from loupe.data.sources.read_options import ReadOptions
from loupe.evaluate.predictions import read_splits
from loupe.evaluate.search_results import Restrictions
from loupe.models.at_hand import WeightsAtHand
from loupe.recipes import catalog
from loupe.search import head_space
from loupe.search.bank import Bank, rungs
from loupe.search.opening import SearchOptions, opened
from loupe.search.trainings import Trainings
from loupe.training.solver import logits_layer

LITE0 = WeightsAtHand("tf_efficientnet_lite0", "timm", 3_370_000, Path("lite0"))
LITE2 = WeightsAtHand("tf_efficientnet_lite2", "timm", 4_870_000, Path("lite2"))


def joint(*at_hand: WeightsAtHand, typical_px: int = 300):
    return head_space.joint_heads(at_hand, dict.fromkeys(at_hand, 1e9), typical_px, 100, catalog.recipe("features"))


def test_all_backbones_are_together_at_two_sizes():
    small, large = joint(LITE0, LITE2)
    assert [one.size_px for one in (small, large)] == [160, 260]  # of the middle one by its own size
    assert small.pretrained_parameters == 8_240_000 and small.flop < large.flop
    assert (
        large.recipe.model.name == "tf_efficientnet_lite0+tf_efficientnet_lite2" and large.recipe.input.size_px == 260
    )
    assert large.flop == pytest.approx(100e9 * ((260 / 224) ** 2 + 1))


def test_one_backbone_is_not_together_with_itself():
    assert joint(LITE0) == () and joint(LITE0, WeightsAtHand(LITE0.backbone, "other", 1, Path("other"))) == ()


@pytest.mark.slow
def test_a_joint_head_is_judged_and_trained_on_the_features_of_its_members(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("LOUPE_WEIGHTS", str(folder))
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(0)
    for name in ("test_resnet", "test_efficientnet"):
        state = timm.create_model(name, num_classes=0).state_dict()
        safetensors.torch.save_file(state, folder / f"{name}.r160_in1k.safetensors")
    rng, label_N = np.random.default_rng(0), np.arange(120) % 3
    stripes = np.sin(np.arange(96)[None, :, None] * (label_N[:, None, None] + 1) / 3) * 60 + 128
    x_NHW = np.clip(stripes + rng.normal(0, 90, (120, 96, 96)), 0, 255).astype(np.uint8)
    found = opened(
        SearchOptions(
            data=(np.repeat(x_NHW[..., None], 3, axis=3), label_N),
            read=ReadOptions.of(None, None, False),
            limit_seconds=60.0,
            began=time.perf_counter(),
            restrictions=Restrictions(),
            device="cpu",
            output=tmp_path,
        )
    )
    head = found.joint[0]
    bank = Bank(found.dataset, found.device, False, rungs(found.images, found.split, 0, "given"), lambda: False)
    rows_N = bank.rungs[-1].rows_N
    assert bank._features(head, bank._images(head), rows_N).shape[0] == len(rows_N)
    evidence = bank.judge(head, len(bank.rungs) - 1)
    assert evidence.accuracy > 0.5
    run = Trainings(found, tmp_path / "candidates", False, bank.pass_seconds).train(head, lambda: False, lambda _: None)
    assert run.recipe.model.name == "test_efficientnet+test_resnet"
    predicted = read_splits(run.directory.file("predictions.csv"))["val"]
    row_of = {content: row for row, content in enumerate(found.images.content)}
    rows_N = np.array([row_of[content] for content in predicted.content])
    layer = logits_layer(run.model)
    features_NC = bank._features(head, bank._images(head), rows_N)  # those that the run has computed by itself
    logits_NK = features_NC @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(logits_NK, predicted.logits_NK, atol=0.02)
