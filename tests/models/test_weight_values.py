"""Weights that no trained network has: refused with the file and the name of a tensor, wherever they are read."""

import json

import pytest
import safetensors.torch
import timm
import torch

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError, RunStateError
from loupe.models import bundle
from loupe.models.build import build
from loupe.models.pretrained import check_weights
from loupe.models.weight_values import defect
from loupe.training import checkpoint
from loupe.training.checkpoint import Checkpoints, DamagedError, Snapshot

CLASSES = ("cat", "dog")
SIZED = Preprocessing(size_px=64, load_px=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return timm.create_model("test_resnet").state_dict()


def _all(value):
    return lambda state: {n: torch.full_like(t, value) if t.is_floating_point() else t for n, t in state.items()}


def _one(name, value):
    def change(state):
        changed = {n: t.clone() for n, t in state.items()}
        changed[name].view(-1)[-1] = value
        return changed

    return change


def _zero(choose):
    return lambda state: {n: torch.zeros_like(t) if choose(n, t) else t for n, t in state.items()}


UNUSABLE = {
    "all NaN": (_all(float("nan")), "conv1.0.weight"),
    "all zero": (_all(0.0), "conv1.0.weight"),
    "all infinite": (_all(float("inf")), "conv1.0.weight"),
    "one NaN": (_one("layer2.0.conv1.weight", float("nan")), "layer2.0.conv1.weight"),
    "one infinity": (_one("layer2.0.conv1.weight", float("-inf")), "layer2.0.conv1.weight"),
    "a NaN in a bias": (_one("bn1.bias", float("nan")), "bn1.bias"),
    "a NaN in running statistics": (_one("bn1.running_var", float("nan")), "bn1.running_var"),
    "zero convolutions": (_zero(lambda name, tensor: tensor.ndim > 1), "conv1.0.weight"),
    "a zero first layer": (_zero(lambda name, tensor: name.startswith("conv1.0")), "conv1.0.weight"),
}
USABLE = {
    "as it is": lambda state: state,
    "zero scales and shifts": _zero(lambda name, tensor: tensor.ndim == 1 and "bn" in name),
    "zero counters": _zero(lambda name, tensor: not tensor.is_floating_point()),
    "one layer in the middle that is zero": _zero(lambda name, tensor: name == "layer2.0.conv1.weight"),
    "half precision": lambda state: {n: t.half() if t.is_floating_point() else t for n, t in state.items()},
    "a NaN in the classifier, which is not used": _one("fc.weight", float("nan")),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_file_of_unusable_weights_is_refused(trained, tmp_path, how):
    change, name = UNUSABLE[how]
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(change(trained), path)
    spec = BackboneSpec(backbone="test_resnet", weights=str(path))
    for refuse in (lambda: check_weights(spec), lambda: build(spec, SIZED, CLASSES, 0)):
        with pytest.raises(ConfigError) as told:
            refuse()
        assert str(path) in str(told.value)
        assert name in str(told.value)


@pytest.mark.parametrize("how", USABLE)
def test_a_file_of_usable_weights_passes(trained, tmp_path, how):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(USABLE[how](trained), path)
    spec = BackboneSpec(backbone="test_resnet", weights=str(path))
    check_weights(spec)
    build(spec, SIZED, CLASSES, 0)


@pytest.mark.parametrize("how", ["one NaN", "one infinity", "all zero"])
def test_unusable_weights_of_the_hub_are_refused(trained, tmp_path, monkeypatch, how):
    """A file that the hub's client has on this machine."""
    change, name = UNUSABLE[how]
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(change(trained), path)
    monkeypatch.setattr("loupe.models.timm.weights._fetch", lambda spec: path)
    spec = BackboneSpec(backbone="test_resnet")
    for refuse in (lambda: check_weights(spec), lambda: build(spec, SIZED, CLASSES, 0)):
        with pytest.raises(ConfigError) as told:
            refuse()
        assert str(path) in str(told.value)
        assert name in str(told.value)


@pytest.mark.parametrize("how", ["all NaN", "one NaN", "all zero", "zero convolutions"])
def test_a_bundle_of_unusable_weights_is_refused_although_its_hash_is_right(tmp_path, how):
    spec = BackboneSpec(backbone="test_resnet", weights="none")
    bundle.save(tmp_path, build(spec, SIZED, CLASSES, 0), spec, "fp32")
    weights = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    if how == "one NaN":
        weights["head.logits.weight"][0, 0] = float("nan")
        name = "head.logits.weight"
    else:
        weights, name = UNUSABLE[how][0](weights), "trunk."
    data = safetensors.torch.save(weights)
    (tmp_path / "weights.safetensors").write_bytes(data)
    config = json.loads((tmp_path / "config.json").read_text()) | {"weights_blake2b": bundle.content_digest(data)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunStateError) as told:
        bundle.load(tmp_path, torch.device("cpu"))
    assert str(tmp_path / "weights.safetensors") in str(told.value)
    assert name in str(told.value)


@pytest.mark.parametrize("group", ["weights", "average", "optimizer"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_of_unusable_numbers_is_damaged_and_the_one_before_is_taken(tmp_path, group, value):
    whole = {name: {"a.weight": torch.ones(2, 2)} for name in ("weights", "average")}
    whole["optimizer"] = {"0.exp_avg": torch.zeros(2, 2)}  # as at the first step
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(Snapshot(whole, {"number": 1}))
    broken = {name: torch.full_like(tensor, value) for name, tensor in whole[group].items()}
    checkpoints.save_last(Snapshot(whole | {group: broken}, {"number": 2}))
    with pytest.raises(DamagedError, match=next(iter(broken))):
        checkpoint.read(tmp_path / "last" / "save-00000002")
    found = checkpoints.load_last()
    assert found is not None
    assert found.values == {"number": 1}


def test_a_checkpoint_of_zero_weights_is_damaged(tmp_path):
    Checkpoints(tmp_path).save_last(Snapshot({"weights": {"a.weight": torch.zeros(2, 2)}}))
    with pytest.raises(RunStateError):
        Checkpoints(tmp_path).load_last()


def test_real_published_weights_pass(real_data):
    files = sorted((real_data / "weights").glob("*.safetensors"))
    assert len(files) >= 3
    for path in files:
        spec = BackboneSpec(backbone=path.name.partition(".")[0], weights=str(path))
        check_weights(spec)
        assert defect(timm.models.load_state_dict(str(path))) is None


def test_masks_may_be_infinite_and_never_nan():
    assert defect({"attn_mask": torch.tensor([[0.0, -torch.inf]]), "w": torch.ones(2, 2)}) is None
    assert "attn_mask" in str(defect({"attn_mask": torch.tensor([[0.0, torch.nan]]), "w": torch.ones(2, 2)}))
