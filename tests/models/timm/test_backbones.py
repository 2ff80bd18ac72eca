"""Pretrained networks: taken apart without a change, cut where it was asked, and with the documents' counts."""

import copy
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from loupe.config.network import BackboneSpec, Dense
from loupe.config.recipe import Preprocessing
from loupe.config.size import Size
from loupe.errors import ConfigError, LoupeError
from loupe.models import build, hub
from loupe.models.summary import count_parameters, layer_table, parameter_table
from loupe.models.timm import backbones, networks, weights
from loupe.models.timm.chains import CHAINS
from loupe.models.timm.families import blocks_of

TEN = tuple("0123456789")
PROJECT_HEAD = {"pooling": "flatten", "hidden": (Dense(units=256), Dense(units=512))}
LECTURE_HEAD = {
    "pooling": "average",
    "hidden": (Dense(units=128, dropout=0.2), Dense(units=64, dropout=0.2)),
}
FAMILIES = {
    "test_efficientnet": 6,
    "mobilenetv3_small_050": 7,
    "mobilenetv1_075": 6,
    "resnet10t": 5,
    "test_convnext": 5,
    "test_vit": 7,
    "test_vit3": 10,
    "test_byobnet": 5,
    "regnetx_002": 5,
    "densenet121": 5,
    "cs3darknet_focus_s": 5,
    "test_nfnet": 5,
    "test_mambaout": 5,
    "fasternet_t0": 5,
    "ghostnet_050": 11,
    "resnetv2_18": 5,
    "poolformerv2_s12": 5,
    "legacy_seresnet18": 5,
}
# Networks that are cut at the parts that they go through, made smaller: blocks, and what timm is told.
QUARTERS = {"depths": (1, 1, 2, 1), "img_size": 64}
PATCHES = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3}
SMALL = {
    "swin_tiny_patch4_window7_224": (5, {**QUARTERS, "embed_dim": 24, "num_heads": (1, 2, 3, 4), "window_size": 4}),
    "swinv2_tiny_window8_256": (5, {**QUARTERS, "embed_dim": 24, "num_heads": (1, 2, 3, 4), "window_size": 4}),
    "test_coatnet": (5, {"img_size": 64}),
    "test_vit_relpos": (4, PATCHES),
    "beit_base_patch16_224": (4, PATCHES),
    "eva02_tiny_patch14_224": (4, {**PATCHES, "img_size": 56}),
    "vit_tiny_patch16_dinov3_qkvb": (4, PATCHES),
    "deit_tiny_distilled_patch16_224": (4, PATCHES),
}
# Of each family that is cut so, one of the smallest networks.
SMALLEST = """
    beit_base_patch16_224 cpubone_nano convmixer_768_32 cspnext_tiny dla46x_c davit_tiny edgenext_xx_small
    efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_l1 efficientvit_m0
    vit_tiny_patch16_dinov3_qkvb fastvit_t8 fasternet_t0 focalnet_tiny_srf ghostnet_050 gcvit_xxtiny hiera_tiny_224
    hgnetv2_b0 iformer_t inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_256d levit_128s
    lowformer_b0 test_mambaout test_coatnet poolformerv2_s12 inception_next_atto gmlp_ti16_224 nextvit_small
    test_nfnet pvt_v2_b0 rdnet_tiny repghostnet_050 repvit_m1 resnetv2_18 rexnet_100 legacy_seresnet18 shvit_s1
    sequencer2d_s starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
    swinv2_cr_tiny_224 tresnet_m tiny_vit_5m_224 deit_tiny_distilled_patch16_224 test_vit_relpos
    ese_vovnet19b_slim_dw legacy_xception xception41p
"""
# Of these, the networks that take images of their own size alone; the others are given images of SMALL_PX.
OF_ONE_SIZE = """
    beit_base_patch16_224 efficientformer_l1 efficientformerv2_s0 gcvit_xxtiny hiera_tiny_224 levit_256d levit_128s
    test_coatnet gmlp_ti16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224
    deit_tiny_distilled_patch16_224 test_vit_relpos
"""
SMALL_PX = 96


def sized(size_px: int) -> Preprocessing:
    return Preprocessing(size_px=size_px, load_px=size_px)


def network_of(name: str) -> nn.Module:
    """A network of random weights."""
    torch.manual_seed(0)
    whole = networks.create_network(name).eval()
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that make a difference
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return whole


def assembled(name: str, size_px: int, **options: object):
    """A network of random weights, and the same taken apart."""
    whole = network_of(name)
    spec = BackboneSpec(backbone=name, weights="none", **options)
    return whole, backbones.assemble(spec, copy.deepcopy(whole), sized(size_px), TEN).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_one_after_the_other_are_the_network_bit_for_bit(name):
    whole, parts = assembled(name, 64)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(parts.trunk(x), whole(x))
        y = x
        for block in parts.trunk:
            y = block(y)
        assert torch.equal(y, whole(x))
    assert len(parts.trunk) == FAMILIES[name]
    assert count_parameters(parts.trunk) == count_parameters(whole), "no weight twice, and none lost"


def check_chain(whole: nn.Module, size_px: int) -> int:
    """How many blocks there are; each way of pooling gives what timm gives, with the parameters of the network."""
    for parameter in whole.parameters():  # those that begin as zeros would hide what reads them
        if parameter.ndim < 2:
            nn.init.uniform_(parameter, 0.5, 1.0)
    x = torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pooled, last = whole(x), whole.forward_features(x)
        if last.ndim == 4 and getattr(whole, "output_fmt", "NCHW") == "NHWC":
            last = last.permute(0, 3, 1, 2)
        for pooling, expected in (("own", pooled), ("average", last)):
            trunk = nn.Sequential(OrderedDict(blocks_of(whole, pooling, Size.of(size_px))))  # which leaves it as it is
            assert expected.isfinite().all() and torch.equal(trunk(x), expected)
            if pooling == "own":
                assert count_parameters(trunk) == count_parameters(whole)
                assert len(trunk.state_dict()) == len(whole.state_dict()), "no weight under two names"
    return len(trunk)


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_cut_at_the_parts_that_they_go_through(name):
    blocks, options = SMALL[name]
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0, **options).eval()
    assert check_chain(whole, options.get("img_size", 64)) == blocks


def test_blocks_that_share_a_bias_of_positions_stay_together():
    for shared in ({"use_shared_rel_pos_bias": True}, {"use_rel_pos_bias": True}):
        network = timm.create_model("beit_base_patch16_224", num_classes=0, **PATCHES, **shared)
        assert len(list(blocks_of(network, "own", Size.of(64)))) == (1 if "use_shared_rel_pos_bias" in shared else 4)


@pytest.mark.slow
def test_every_family_is_cut_as_timm_computes():
    names = [name for name in SMALLEST.split() if timm.is_model(name)]
    seen = set()
    for name in names:
        size_px = timm.get_pretrained_cfg(name).input_size[-1] if name in OF_ONE_SIZE.split() else SMALL_PX
        whole = network_of(name)
        backbones.assemble(BackboneSpec(backbone=name, weights="none"), whole, sized(size_px), TEN)
        seen.add(type(whole).__name__)
        assert check_chain(whole.eval(), size_px) > 1, name
    assert len(seen) == len(names) and (seen == set(CHAINS) or len(names) < len(SMALLEST.split())), "one of each family"


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "mobilenetv3_small_050", "resnet10t", "test_convnext", "test_byobnet"]
)
@pytest.mark.parametrize("pooling", ["average", "flatten"])
def test_without_its_top_a_network_ends_with_its_last_map(name, pooling):
    whole, parts = assembled(name, 64, pooling=pooling)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(parts.trunk(x), whole.forward_features(x))


def test_maps_with_channels_last_are_pooled_over_their_places():
    model = build.skeleton(
        BackboneSpec(backbone="swin_tiny_patch4_window7_224", pooling="average", weights="none"), sized(224), TEN
    )
    assert model.head.logits.in_features == 768


def test_a_transformer_takes_images_of_another_size():
    whole, parts = assembled("test_vit", 96)
    assert parts.trunk(torch.zeros(1, 3, 96, 96)).shape == (1, whole.num_features)


@pytest.mark.parametrize(
    ("name", "head", "all_trainable", "head_trainable"),
    [
        ("vgg16", PROJECT_HEAD, (14_982_730, 0), (268_042, 14_714_688)),
        ("vgg16", LECTURE_HEAD, (14_789_258, 0), (74_570, 14_714_688)),
        ("mobilenetv1_100", PROJECT_HEAD, (3_606_090, 21_888), (399_114, 3_228_864)),
    ],
)
def test_parameter_counts_are_those_of_the_documents(name, head, all_trainable, head_trainable):
    model = build.skeleton(BackboneSpec(backbone=name, **head), sized(32), TEN)
    assert next(model.parameters()).is_meta
    for part, (trainable, rest) in (("all", all_trainable), ("head", head_trainable)):
        model.learn(part)
        counts = {"total": trainable + rest, "trainable": trainable, "non_trainable": rest}
        assert count_parameters(model) == counts


def test_vgg16_is_cut_at_its_five_blocks():
    model = build.skeleton(BackboneSpec(backbone="vgg16", pooling="flatten"), sized(32), TEN)
    convolutions = [sum(isinstance(layer, nn.Conv2d) for layer in block.modules()) for block in model.trunk]
    assert convolutions == [2, 2, 3, 3, 3]


def test_frozen_means_frozen_to_the_bit():
    """Weights and statistics before the cut stay; everything after it changes."""
    _, model = assembled("test_efficientnet", 64)
    model.head.to_empty(device="cpu")
    nn.init.ones_(model.head.logits.weight)
    model.train()
    model.learn("last-2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(torch.randn(8, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    names = [name for name, _ in model.trunk.named_children()]
    for name, value in model.state_dict().items():
        frozen = name.startswith("trunk.") and name.split(".")[1] in names[:-2]
        assert torch.equal(value, before[name]) == frozen, name
    model.learn("all")
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_without_batch_statistics_training_begins_with_what_evaluation_gives():
    """Scales, offsets and kernels of the trunk learn; its statistics stay, and the batch changes no output."""
    _, model = assembled("test_efficientnet", 64)
    model.head.to_empty(device="cpu")
    nn.init.ones_(model.head.logits.weight)
    nn.init.zeros_(model.head.logits.bias)
    model.learn("all", batch_statistics=False)
    x_BCHW = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(x_BCHW)
        assert torch.equal(model.train()(x_BCHW), expected) and model.head.training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(x_BCHW).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.endswith(statistics), name
    model.learn("all")
    assert all(module.training for module in model.train().modules())


@pytest.mark.parametrize(("part", "frozen"), [("all", 0), ("last-3", 3), ("last-block", 5), ("head", 6)])
def test_parts_count_from_the_end(part, frozen):
    _, model = assembled("test_efficientnet", 64)
    assert model.blocks_before(part) == frozen


def test_too_many_blocks_are_refused_with_the_number_that_there_is():
    _, model = assembled("test_efficientnet", 64)
    with pytest.raises(LoupeError, match=r"6 blocks.*last-N with N up to 5"):
        model.blocks_before("last-6")
    with pytest.raises(LoupeError, match="Use part head or all"):
        assembled("pit_ti_224", 224)[1].blocks_before("last-block")


@pytest.mark.parametrize(
    ("name", "file", "preprocessing"),
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k", (224, 256, "bicubic", 0.5)),
        ("mobilenetv1_075", "mobilenetv1_075.keras_in1k", (224, 256, "bilinear", 0.5)),
    ],
)
def test_real_weights_know_a_cat_from_a_dog(real_data, name, file, preprocessing):
    """ImageNet's own classes: 151 to 268 are dogs, 281 to 285 domestic cats. Wrong padding or range would show."""
    from loupe.data.pixels import decode

    path = real_data / "weights" / f"{file}.safetensors"
    spec = BackboneSpec(backbone=name, weights=str(path))
    found = backbones.preprocessing(spec)
    assert (found.size_px, found.load_px, found.interpolation, found.mean[0]) == preprocessing
    model = build.build(spec, found, ("cat", "dog"), seed=0).eval()
    state = timm.models.load_state_dict(str(path))
    right = 0
    for label, folder in enumerate(("cat", "dog")):
        files = sorted((real_data / "cats_vs_dogs" / "val" / folder).iterdir())[:10]
        for file_path in files:
            pixels = decode.load(
                file_path.read_bytes(),
                str(file_path),
                load_px=found.load_px,
                resize=found.resize,
                interpolation=found.interpolation,
            )
            margin = (found.load_px - found.size_px) // 2
            centre = pixels[margin : margin + found.size_px, margin : margin + found.size_px]
            x = (torch.from_numpy(centre.copy()).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
            with torch.no_grad():
                logits = model.trunk(x) @ state["classifier.weight"].T + state["classifier.bias"]
            cat, dog = logits[0, 281:286].max(), logits[0, 151:269].max()
            right += int((dog > cat).item() == label)
    assert right >= 16


def test_the_head_depends_on_the_seed_alone():
    spec = BackboneSpec(backbone="test_resnet", weights="none", hidden=(Dense(units=8),))
    heads = [build.build(spec, sized(64), TEN, seed).head.state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not torch.equal(heads[0]["logits.weight"], heads[2]["logits.weight"])


def test_weights_none_are_random_and_depend_on_the_seed_alone():
    spec = BackboneSpec(backbone="test_resnet", weights="none")
    trunks = []
    for seed in (1, 1, 2):
        trunks.append(build.build(spec, sized(64), TEN, seed).trunk.state_dict())
        torch.rand(1)
    name = next(iter(trunks[0]))
    assert torch.equal(trunks[0][name], trunks[1][name])
    assert not torch.equal(trunks[0][name], trunks[2][name])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(LoupeError, match="resnet50"):
        networks.check_name("resnet5O")


def test_weights_of_another_network_are_refused(tmp_path):
    import safetensors.torch

    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), path)
    build.build(BackboneSpec(backbone="test_resnet", weights=str(path)), sized(64), TEN, 0)
    with pytest.raises(LoupeError, match=r"not the weights of test_vit; \d+ of \d+ tensors"):
        build.build(BackboneSpec(backbone="test_vit", weights=str(path)), sized(64), TEN, 0)
    with pytest.raises(LoupeError, match="no such file"):
        build.build(BackboneSpec(backbone="test_vit", weights=str(tmp_path / "no")), sized(64), TEN, 0)
    path.write_bytes(b"not weights")
    with pytest.raises(LoupeError, match="cannot be read as weights"):
        build.build(BackboneSpec(backbone="test_resnet", weights=str(path)), sized(64), TEN, 0)


def test_weights_in_the_names_of_their_authors_are_renamed_as_timm_does(tmp_path):
    """timm keeps some weights of its hub in other names, of which `checkpoint_filter_fn` makes its own."""
    import safetensors.torch

    torch.manual_seed(3)
    whole = timm.create_model("test_convnext")
    renamed = [
        (r"^stem\.", "downsample_layers.0."),
        (r"stages\.(\d+)\.blocks\.(\d+)", r"stages.\1.\2"),
        (r"stages\.(\d+)\.downsample\.(\d+)", r"downsample_layers.\1.\2"),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"head\.norm", "norm"),
        (r"head\.fc", "head"),
    ]
    theirs = whole.state_dict()
    for ours, other in renamed:
        theirs = {re.sub(ours, other, name): value for name, value in theirs.items()}
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(theirs, path)
    spec = BackboneSpec(backbone="test_convnext", weights=str(path))
    weights.check_weights(spec)
    loaded = weights.load(spec).state_dict()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in loaded.items())
    assert set(loaded) <= set(whole.state_dict())


def test_a_file_gives_what_timm_gives(tmp_path):
    """Weights of a file of timm's names, read by us and by timm."""
    import safetensors.torch

    torch.manual_seed(3)
    whole = timm.create_model("test_resnet").eval()
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(whole.state_dict(), path)
    model = build.build(BackboneSpec(backbone="test_resnet", weights=str(path)), sized(64), TEN, 0).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(x), pre_logits=True)
        # The layouts of the two in memory differ, and with them the order of sums; of other weights all would differ.
        torch.testing.assert_close(model.trunk(x), expected, rtol=1e-3, atol=1e-4)


def test_an_overview_counts_what_learns_layer_by_layer():
    from loupe.models.overview import overview

    shown = overview("vgg16", part="last-block", classes=1000, size_px=224)
    assert shown["parameters"] == {"total": 138_357_544, "trainable": 130_722_280, "non_trainable": 7_635_264}
    assert sum(row["parameters"] for row in shown["layers"]) == 138_357_544, "torchvision's own count of VGG16"
    assert {row["trainable"] for row in shown["layers"] if row["name"].startswith("trunk.block4")} == {False}
    assert (shown["frozen_blocks"], len(shown["blocks"])) == (4, 5)


def test_a_part_of_a_name_lists_what_holds_it():
    from loupe.models.names import matching

    found = {model.name: model.pretrained for model in matching("lite0")}
    assert found["tf_efficientnet_lite0"] is True
    with pytest.raises(LoupeError, match="Did you mean resnet50") as refused:
        matching("resnet5O")
    assert len(str(refused.value)) < 200, "a thousand names would bury the answer"


@pytest.mark.parametrize(("name", "images"), [("test_efficientnet", 7), ("test_vit", 1)])
def test_openvino_computes_what_pytorch_does(name, images):
    pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install openvino")
    from loupe.devices import Compute
    from loupe.models.engine import OpenVinoEngine, TorchEngine

    _, model = assembled(name, 64)
    blocks, compute = model.trunk[:3], Compute(torch.device("cpu"), "fp32")
    inputs = [torch.randn(count, 3, 64, 64).contiguous(memory_format=torch.channels_last) for count in (4, images, 4)]
    ours = list(OpenVinoEngine(blocks, compute, Size.of(64)).run(iter(inputs)))
    reference = list(TorchEngine(blocks, compute).run(iter(inputs)))
    assert [len(made) for made in ours] == [4, images, 4], "in their order"
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.shape == theirs.shape
        assert np.linalg.norm(mine - theirs) < 2e-3 * np.linalg.norm(theirs)


def test_without_openvino_pytorch_computes_and_says_how_to_be_faster(monkeypatch):
    import sys

    from loupe.devices import Compute
    from loupe.models.engine import engine

    monkeypatch.setitem(sys.modules, "openvino", None)
    _, model = assembled("test_efficientnet", 64)
    found, remark = engine(model.trunk, Compute(torch.device("cpu"), "fp32"), Size.of(64))
    assert found.name == "pytorch-fp32"
    assert "pip install openvino" in remark


def test_a_folder_that_timm_wrote_says_how_its_pixels_are_prepared(tmp_path):
    network = timm.create_model("test_resnet", num_classes=3)
    network.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "input_size": (3, 64, 64)}
    network.pretrained_cfg |= {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"}
    save_for_hf(network, tmp_path)
    found = backbones.preprocessing(BackboneSpec(backbone="test_resnet", weights=f"local-dir:{tmp_path}"))
    assert found == Preprocessing(
        size_px=64,
        load_px=80,
        resize="squash",
        interpolation="bilinear",
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.6, 0.7),
        pixel_definition=2,
    )
    assert found != backbones.preprocessing(BackboneSpec(backbone="test_resnet", weights="none"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoupeError, match=r"config.json"):
        backbones.preprocessing(BackboneSpec(backbone="test_resnet", weights=str(tmp_path)))


def test_without_a_config_beside_weights_the_network_s_own_preprocessing_stands(tmp_path, monkeypatch):
    own = backbones.preprocessing(BackboneSpec(backbone="test_resnet", weights="none"))
    spec = BackboneSpec(backbone="test_resnet", weights="hf-hub:somebody/weights-alone")

    def answers(error: Exception) -> None:
        def fetch(file: hub.HubFile) -> Path:
            assert file == hub.HubFile("somebody/weights-alone", "config.json")
            raise error

        monkeypatch.setattr(hub.HubFile, "fetch", fetch)

    answers(hub.MissingFileError("there is no config.json"))
    assert backbones.preprocessing(spec) == own
    answers(hub.DownloadError("the hub cannot be reached"))
    with pytest.raises(ConfigError, match="the hub cannot be reached") as refused:
        backbones.preprocessing(spec)
    command = "hf download somebody/weights-alone model.safetensors config.json --local-dir weights"
    assert command in str(refused.value) and "--weights local-dir:weights" in str(refused.value)

    for word in ("timm", "none"):  # a folder of that name is not what is asked for
        (tmp_path / word).mkdir()
        (tmp_path / word / "config.json").write_text('{"mean": [0.1, 0.1, 0.1]}')
    monkeypatch.chdir(tmp_path)
    for word in ("timm", "none"):
        assert backbones.preprocessing(BackboneSpec(backbone="test_resnet", weights=word)) == own


@pytest.mark.parametrize(
    ("name", "layer"), [pytest.param("sequencer2d_s", "LSTM", marks=pytest.mark.slow), ("gemma4_vit_167m", "Linear")]
)
def test_layers_that_give_more_than_one_tensor_are_listed(name, layer):
    if not timm.is_model(name):
        pytest.skip("this timm has no such network")
    model = backbones.skeleton(BackboneSpec(backbone=name, weights="none"), sized(224), TEN)
    rows = layer_table(model)
    assert layer in {row["type"] for row in rows} and rows[-1]["output"] == [10]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto"])
def test_the_table_of_parameters_counts_each_once_also_of_modules_that_hold_layers(name):
    model = backbones.skeleton(BackboneSpec(backbone=name, weights="none"), sized(32), TEN)
    model.learn("last-block")
    rows = {row["name"]: row for row in parameter_table(model)}
    assert sum(row["parameters"] for row in rows.values()) == count_parameters(model)["total"]
    assert {row["name"] for row in layer_table(model)} < {*rows}
    trained = {key for key, row in rows.items() if row["trainable"]}
    last = f"trunk.{list(dict(model.trunk.named_children()))[-1]}."
    assert trained and all(key.startswith((last, "head.")) for key in trained)
