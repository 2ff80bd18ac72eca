"""Blends as networks: members that read one input, each in its own normalisation, and one head on all features."""

import numpy as np
import pytest
import torch

import loupe
from builders import without_slow_parts
from loupe.cache import cache_folder
from loupe.config.network import BlendMember, BlendSpec, weights_of, without_weights
from loupe.config.overrides import parse
from loupe.config.recipe import InputSpec, Preprocessing
from loupe.errors import ConfigError
from loupe.models import bundle, names
from loupe.models.build import build, skeleton
from loupe.models.catalog import network
from loupe.models.overview import overview
from loupe.models.pretrained import shared_preprocessing, with_own_normalisation
from loupe.models.summary import count_parameters
from loupe.training.frozen import trunk_key

PIXELS = Preprocessing(size_px=16, load_px=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLASSES = ("a", "b", "c")
SPEC = network("digits-cnn+fast-cnn")


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def of_members(**changes) -> BlendSpec:
    own = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return SPEC.model_copy(update={"members": (SPEC.members[0], SPEC.members[1].model_copy(update=own)), **changes})


def test_features_stand_side_by_side_each_from_its_own_normalisation():
    model = build(of_members(), PIXELS, CLASSES, seed=3).eval()
    first, second = (
        build(member.network, PIXELS, CLASSES, 3 + number).eval() for number, member in enumerate(SPEC.members)
    )
    pixels = images() * 0.5 + 0.5
    own = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    with torch.no_grad():
        wanted = [one.head[0](one.trunk(x)) for one, x in ((first, images()), (second, own))]
        found = model.trunk(images())
    torch.testing.assert_close(found, torch.cat(wanted, dim=1), rtol=1e-4, atol=1e-5)
    assert model.head.logits.in_features == found.shape[1]


def test_probabilities_are_the_mean_of_those_of_the_members_at_their_temperatures():
    members = [
        one.model_copy(update={"share": share, "temperature": temperature})
        for one, share, temperature in zip(SPEC.members, (3.0, 1.0), (2.0, 0.5), strict=True)
    ]
    spec = SPEC.model_copy(update={"members": tuple(members), "combine": "probabilities"})
    model = build(spec, PIXELS, CLASSES, seed=3).eval()
    with torch.no_grad():
        first, second = (
            (build(one.network, PIXELS, CLASSES, 3 + number).eval()(images()) / one.temperature).softmax(dim=1)
            for number, one in enumerate(members)
        )
        torch.testing.assert_close(model(images()).exp(), 0.75 * first + 0.25 * second)


@pytest.mark.parametrize("combine", ["features", "probabilities"])
def test_a_stored_blend_gives_the_same_answers(tmp_path, combine):
    spec = of_members(combine=combine)
    model = build(spec, PIXELS, CLASSES, seed=3).eval()
    bundle.save(tmp_path, model, spec, "fp32")
    again, _ = bundle.load(tmp_path, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)
    assert count_parameters(skeleton(spec, PIXELS, CLASSES)) == count_parameters(model)


def test_two_members_of_one_network_begin_with_other_weights():
    model = build(network("fast-cnn+fast-cnn"), PIXELS, CLASSES, seed=0)
    one, other = (member.classifier.trunk.state_dict() for member in model.trunk.members.members)
    assert any((one[name] != other[name]).any() for name in one)


def test_weights_are_named_for_each_member_and_are_no_part_of_the_key_of_the_trunk():
    assert weights_of(network("resnet18+resnet34", "none")) == ("none", "none")
    assert weights_of(network("resnet18+resnet34", "hf-hub:a/b+none")) == ("hf-hub:a/b", "none")
    with pytest.raises(ConfigError, match="2 members"):
        network("resnet18+resnet34", "hf-hub:a/b+none+none")
    timm = network("resnet18+resnet34")
    assert trunk_key(timm) == trunk_key(without_weights(timm)) != trunk_key(network("resnet18+resnet50"))


def test_the_names_of_blends_are_known_and_shown():
    assert names.exists("digits-cnn+resnet18") and not names.exists("digits-cnn+nothing")
    shown = overview("digits-cnn+fast-cnn", part="head", classes=4, size_px=16)
    assert shown["blocks"] == ["members"] and shown["frozen_blocks"] == 1


def test_members_that_want_another_input_are_refused_with_the_setting():
    other = PIXELS.model_copy(update={"size_px": 20, "load_px": 20})
    with pytest.raises(ConfigError, match=r"input\.size_px=16"):
        shared_preprocessing(["one", "two"], [PIXELS, other], ["size_px"])
    assert shared_preprocessing(["one", "two"], [PIXELS, other], ["resize"]) == PIXELS


def test_backbones_keep_their_own_normalisation_under_one_head():
    with pytest.raises(ConfigError, match=r"input\.size_px=224"):
        with_own_normalisation(network("tf_efficientnet_lite0+tf_efficientnet_lite2"), InputSpec())
    blend, given = network("resnet18+tf_efficientnet_lite0"), InputSpec(size_px=96, interpolation="bicubic")
    first, second = with_own_normalisation(blend, given).members
    assert (first.mean, first.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (second.mean, second.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert with_own_normalisation(blend, given.model_copy(update={"normalise": "unit"})) == blend


@pytest.mark.parametrize(
    "changes",
    [
        {"members": [{"network": {"backbone": "resnet18"}}]},
        {"members": [{"network": {"backbone": "resnet18"}, "share": 0}] * 2},
        {"combine": "features", "members": [{"network": SPEC.model_dump(mode="json")}] * 2},
    ],
)
def test_blends_that_cannot_be_are_refused(changes):
    recipe = {"name": "r", "model": {**SPEC.model_dump(mode="json"), **changes}, "stages": [{"epochs": 1}]}
    with pytest.raises(ConfigError):
        parse(recipe, "recipe")


def test_stages_are_for_networks_that_are_trained():
    blend = SPEC.model_dump(mode="json")
    with pytest.raises(ConfigError, match="stages"):
        parse({"name": "r", "model": blend, "stages": []}, "recipe")
    with pytest.raises(ConfigError, match="stages"):
        parse({"name": "r", "model": {**blend, "combine": "probabilities"}, "stages": [{"epochs": 1}]}, "recipe")
    assert parse({"name": "r", "model": {**blend, "combine": "probabilities"}, "stages": []}, "recipe").epochs == 0


@pytest.fixture
def quick(monkeypatch, tmp_path):
    without_slow_parts(monkeypatch)
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_frozen_features_are_those_that_each_member_has_alone(quick):
    def trained(model: str, name: str, **options):
        recipe = parse(
            {
                "name": name,
                "model": network(model).model_dump(mode="json"),
                "input": {"size_px": 8, "load_px": 8, "normalise": "unit"},
                "stages": [{"epochs": 2, "part": "head", "optimizer": "logistic"}],
            },
            name,
        )
        return loupe.train("digits", recipe=recipe, open_test=False, quiet=True, device="cpu", **options)

    run = trained("digits-cnn+digits-cnn", "two")
    files = {file.name for file in (cache_folder() / "frozen").iterdir() if not file.name.startswith(".")}
    assert len(files) >= 2  # one for each member
    own, split = run.own_images()
    in_torch = run.predictions_for(own, split.val, in_torch=True)
    from loupe.evaluate.predictions import read_splits

    stored = read_splits(run.path / "predictions.csv")["val"]  # from cached features
    np.testing.assert_allclose(in_torch.logits_NK, stored.logits_NK, atol=0.01)  # cached maps are in 16 bits
    assert run.results.validation.accuracy.value > 0.8
    again = trained("digits-cnn", "one", seed=run.recipe.seed)
    assert {file.name for file in (cache_folder() / "frozen").iterdir() if not file.name.startswith(".")} == files
    assert again.results.validation.accuracy.value <= run.results.validation.accuracy.value + 0.1


@pytest.mark.slow
def test_a_blend_of_features_is_trained_as_a_whole_and_trained_on(quick):
    recipe = parse(
        {
            "name": "both",
            "model": network("digits-cnn+fast-cnn").model_dump(mode="json"),
            "input": {"size_px": 16, "load_px": 16, "normalise": "unit"},
            "stages": [{"epochs": 1, "lr": 1e-3}],
        },
        "both",
    )
    options = {"open_test": False, "quiet": True, "device": "cpu", "settings": {"split.seed": 0, "precision": "fp32"}}
    run = loupe.train("digits", recipe=recipe, name="first", **options)
    more = loupe.train("digits", recipe=recipe, weights=run.path, name="second", **options)
    assert more.results.parent.head == "same"
    assert more.results.validation.log_loss.value < run.results.validation.log_loss.value


def test_a_member_has_its_own_weights_and_normalisation():
    assert BlendMember(network=SPEC.members[0].network).mean is None
    assert SPEC.shares == (0.5, 0.5) and SPEC.name == "digits-cnn+fast-cnn"
