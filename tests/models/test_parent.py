"""Weights of a trained classifier: found, compared with the network that is to take them, and taken."""

import json

import pytest
import timm
import torch

from loupe.config.network import BackboneSpec, CnnSpec, ConvBlock, Dense
from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError, RunStateError
from loupe.export import timm_folder
from loupe.models import bundle, parent, pretrained
from loupe.models.build import build
from loupe.models.catalog import weights_name

SIZES = Preprocessing(size_px=16, load_px=16, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
BLOCK = ConvBlock(filters=(4,), norm="each", dropout=0.2)
SMALL = CnnSpec(name="small", blocks=(BLOCK,), hidden=(Dense(units=8),), whitening_px=2)
BACKBONE = BackboneSpec(backbone="test_resnet", weights="none")
CLASSES = ("café", "dog", "frog")


def trained(folder, network, classes=CLASSES, sizes=SIZES):
    """A classifier of random weights, stored as a run stores it."""
    model = build(network, sizes, classes, seed=1).eval()
    model.temperature = 1.7
    bundle.save(folder, model, network, "fp32")
    return model


def started(network, folder, classes=CLASSES, sizes=SIZES):
    return build(network.model_copy(update={"weights": str(folder)}), sizes, classes, seed=2).eval()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("network", [SMALL, BACKBONE], ids=["small", "backbone"])
def test_trunk_and_head_are_taken_where_the_classes_are_the_same(network, tmp_path):
    theirs = trained(tmp_path, network)
    assert same(started(network, tmp_path), theirs)
    decomposed = ("cafe\u0301", "dog", "frog")  # the same name in another Unicode form
    assert same(started(network, tmp_path, decomposed), theirs)
    assert started(network, tmp_path).temperature == 1.0


@pytest.mark.parametrize("network", [SMALL, BACKBONE], ids=["small", "backbone"])
def test_classes_in_another_order_take_the_head_in_theirs(network, tmp_path):
    theirs, mine = trained(tmp_path, network), started(network, tmp_path, ("frog", "café", "dog"))
    x_BCHW = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(mine(x_BCHW), theirs(x_BCHW)[:, [2, 0, 1]])


@pytest.mark.parametrize("network", [SMALL, BACKBONE], ids=["small", "backbone"])
@pytest.mark.parametrize("classes", [("café", "dog"), ("café", "dog", "cow")])
def test_other_classes_have_a_new_head_on_the_same_trunk(network, classes, tmp_path):
    theirs, mine = trained(tmp_path, network), started(network, tmp_path, classes)
    untrained = build(network, SIZES, classes, seed=2)
    assert same(mine.trunk, theirs.trunk) and same(mine.head, untrained.head)


def test_another_head_is_new(tmp_path):
    theirs = trained(tmp_path, SMALL)
    other = SMALL.model_copy(update={"hidden": ()})
    mine = started(other, tmp_path)
    assert same(mine.trunk, theirs.trunk) and mine.head.logits.in_features != theirs.head.logits.in_features
    larger = SIZES.model_copy(update={"size_px": 20, "load_px": 20})
    assert same(started(SMALL, tmp_path, sizes=larger).trunk, theirs.trunk), "flattened, so that the head is larger"
    assert parent.head_use(parent.find(str(tmp_path)), SMALL, larger, CLASSES)[0] == "new"


def test_settings_of_training_alone_do_not_make_another_network(tmp_path):
    theirs = trained(tmp_path, SMALL)
    without_dropout = BLOCK.model_copy(update={"dropout": 0.0})
    other = SMALL.model_copy(update={"blocks": (without_dropout,), "init": "he", "name": "renamed"})
    assert same(started(other, tmp_path), theirs)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (SMALL.model_copy(update={"blocks": (BLOCK.model_copy(update={"filters": (5,)}),)}), "blocks.0.filters"),
        (SMALL.model_copy(update={"norm_epsilon": 1e-5}), "norm_epsilon"),
        (SMALL.model_copy(update={"name": "other", "blocks": ()}), "small"),
        (BACKBONE, "small"),
    ],
    ids=["filters", "epsilon", "blocks", "backbone"],
)
def test_weights_of_another_network_are_refused(network, says, tmp_path):
    trained(tmp_path, SMALL)
    wanted = network.model_copy(update={"weights": str(tmp_path)})
    with pytest.raises(ConfigError, match=says) as refused:
        pretrained.check_weights(wanted)
    assert str(tmp_path) in str(refused.value)
    with pytest.raises(ConfigError, match=says):
        build(wanted, SIZES, CLASSES, seed=0)


def test_another_tag_of_a_backbone_is_the_same_network(tmp_path):
    assert parent.same_trunk(BACKBONE, BACKBONE.model_copy(update={"backbone": "test_resnet.r160_in1k"}))
    assert not parent.same_trunk(BACKBONE, BACKBONE.model_copy(update={"pooling": "average"}))


def test_a_run_its_model_and_an_export_are_found(tmp_path):
    run, export = tmp_path / "runs" / "first", tmp_path / "export"
    model = trained(run / "model", BACKBONE)
    (run / "recipe.yaml").write_text("name: first\n")
    timm_folder.write(model, BACKBONE, export)
    for given in (run, run / "model"):
        found = parent.find(str(given))
        assert found.run == run and found.shown == run and found.weights == run / "model" / "weights.safetensors"
        assert found.config.classes == CLASSES
        assert weights_name(str(given)) == str(run / "model")
    for given in (str(export), f"local-dir:{export}"):
        found = parent.find(given)
        assert found.run is None and found.weights == export / "model.safetensors"
        assert found.preprocessing == SIZES and found.network == BACKBONE
        assert pretrained.native_preprocessing(BACKBONE.model_copy(update={"weights": given})) == SIZES
        assert found.name == "export"
    (export / "export.json").write_text('{"run": "second"}')
    assert parent.find(str(export)).name == "second"
    timm_folder.write(model, BACKBONE, run / "exports" / "timm")
    inside = parent.find(str(run / "exports" / "timm"))
    assert (inside.run, inside.name, inside.of_timm) == (run, "first", True)
    assert same(started(BACKBONE, export), model)
    for other in ("timm", "none", "hf-hub:somebody/export", str(tmp_path), str(tmp_path / "nothing")):
        assert parent.find(other) is None


def test_an_unfinished_run_has_no_weights(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: begun\n")
    with pytest.raises(RunStateError, match="--resume"):
        parent.find(str(tmp_path))


def test_damaged_weights_are_refused_before_anything_is_built(tmp_path):
    trained(tmp_path, SMALL)
    file = tmp_path / "weights.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-4] + b"\0\0\x80\x7f")
    wanted = SMALL.model_copy(update={"weights": str(tmp_path)})
    with pytest.raises(RunStateError, match=str(tmp_path)):
        pretrained.check_weights(wanted)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"classes": 3}))
    with pytest.raises(RunStateError, match=r"config\.json"):
        parent.find(str(tmp_path))


def test_a_small_network_takes_weights_from_a_run_alone(tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        pretrained.check_weights(SMALL.model_copy(update={"weights": str(tmp_path / "gone")}))


def test_the_origin_is_that_of_the_published_weights_that_they_go_back_to(tmp_path):
    published = BackboneSpec(backbone="tf_efficientnet_lite0", weights="timm")
    origin = pretrained.weights_origin(published)
    assert origin.licence == timm.get_pretrained_cfg("tf_efficientnet_lite0").license
    assert pretrained.weights_origin(BACKBONE) is None and pretrained.weights_origin(SMALL) is None
    for number, network in enumerate((published, published.model_copy(update={"weights": "none"}))):
        model = build(BACKBONE, SIZES, CLASSES, seed=0)
        bundle.save(tmp_path / str(number), model, network, "fp32")  # its config alone is read
    of_run = [published.model_copy(update={"weights": str(tmp_path / str(number))}) for number in range(2)]
    assert [pretrained.weights_origin(network) for network in of_run] == [origin, None]
