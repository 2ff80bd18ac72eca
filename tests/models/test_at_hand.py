"""Weights on this machine: found without the network, damaged ones named once, and `timm` means them."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from loupe.config.network import BackboneSpec
from loupe.errors import ConfigError
from loupe.models import at_hand
from loupe.models.at_hand import settle, survey, weights_at_hand
from loupe.models.timm import survey as of_timm
from loupe.models.timm import weights

NAME, TAG = "test_resnet", "r160_in1k"  # timm's own network for tests, and the tag of its weights


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=0).state_dict()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Folder of LOUPE_WEIGHTS, and empty caches of huggingface_hub and of PyTorch."""
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("LOUPE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(at_hand, "_said", set())
    return tmp_path / "weights"


def test_a_file_with_a_tag_of_timm_stands_in_for_its_download(folder, state):
    assert weights_at_hand() == ()
    file = folder / f"{NAME}.{TAG}.safetensors"
    safetensors.torch.save_file(state, file)
    found = weights_at_hand()
    parameters = sum(p.numel() for p in timm.create_model(NAME, num_classes=0).parameters())
    assert [(one.backbone, one.weights, one.parameters, one.file) for one in found] == [
        (NAME, "timm", parameters, file)
    ]
    for name in (NAME, f"{NAME}.{TAG}"):
        spec = BackboneSpec(backbone=name, weights="timm")
        assert settle(spec) == spec and weights.weights_file(spec) == file
        assert torch.equal(weights.load(spec).state_dict()["conv1.0.weight"], state["conv1.0.weight"])
        assert weights.licence(spec) == timm.get_pretrained_cfg(NAME).license
    weights.fetch(NAME)


@pytest.mark.parametrize("name", [f"{NAME}.safetensors", f"{NAME}.mine.safetensors"])
def test_weights_that_are_not_timm_s_are_named_by_their_path_and_have_no_known_licence(folder, state, name):
    safetensors.torch.save_file(state, folder / name)
    (found,) = weights_at_hand()
    assert (found.backbone, found.weights) == (NAME, str(folder / name))
    settled = settle(BackboneSpec(backbone=NAME))
    assert settled == found.spec and weights.licence(settled) is None and weights.repository(settled) is None


def test_folders_with_a_config_and_several_folders(folder, state, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    torch.save(state, other / "pytorch_model.bin")
    (other / "config.json").write_text(json.dumps({"architecture": NAME, "pretrained_cfg": {"tag": TAG}}))
    monkeypatch.setenv("LOUPE_WEIGHTS", os.pathsep.join([str(folder), str(other)]))
    (found,) = weights_at_hand()
    assert (found.weights, found.file) == (str(other), other / "pytorch_model.bin")
    assert torch.equal(weights.load(found.spec).state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    safetensors.torch.save_file(state, folder / f"{NAME}.{TAG}.safetensors")
    (found,) = weights_at_hand()
    assert found.weights == "timm"


def test_what_cannot_be_used_is_said_once_and_the_others_are_used(folder, state, monkeypatch, caplog):
    caplog.set_level("WARNING", "loupe")
    safetensors.torch.save_file(state, folder / f"{NAME}.{TAG}.safetensors")
    whole = (folder / f"{NAME}.{TAG}.safetensors").read_bytes()
    (folder / "test_vit.safetensors").write_bytes(whole[:-100])
    (folder / "test_efficientnet.safetensors").write_bytes(whole)  # weights of another network
    (folder / "nothing.safetensors").write_bytes(whole)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "notes.txt").write_text("no weights")
    monkeypatch.setenv("LOUPE_WEIGHTS", f"{folder}{os.pathsep}{folder / 'gone'}")
    assert [one.backbone for one in weights_at_hand()] == [NAME]
    assert [one.backbone for one in weights_at_hand()] == [NAME]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == len(survey().problems) == 5
    for word in ("test_vit", "test_efficientnet", "nothing", "broken", "gone"):
        assert sum(word in one for one in said) == 1


def test_a_damaged_file_is_never_replaced_by_another_silently(folder, state):
    (folder / f"{NAME}.{TAG}.safetensors").write_bytes(b"no weights at all")
    spec = BackboneSpec(backbone=NAME)
    assert weights_at_hand() == ()
    with pytest.raises(ConfigError, match=r"LOUPE_WEIGHTS: .*safetensors"):
        weights.check_weights(spec)


def test_the_cache_of_the_hub(folder, state, monkeypatch, tmp_path):
    monkeypatch.delenv("LOUPE_WEIGHTS")
    snapshot = tmp_path / "hub" / f"models--timm--{NAME}.{TAG}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    safetensors.torch.save_file(state, snapshot / "model.safetensors")
    monkeypatch.setattr(of_timm, "_is_cut_off", lambda file: False)
    try_cache = "huggingface_hub.try_to_load_from_cache"
    monkeypatch.setattr(
        try_cache,
        lambda repository, name, revision: (
            str(snapshot / name) if (repository, name) == (f"timm/{NAME}.{TAG}", "model.safetensors") else None
        ),
    )
    assert [(one.backbone, one.weights) for one in weights_at_hand()] == [(NAME, "timm")]
