import copy
import hashlib
import json

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from loupe.config.network import BackboneSpec, CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.errors import LoupeError
from loupe.models import bundle
from loupe.models.build import build
from loupe.models.catalog import NETWORKS, network
from loupe.models.cnn import cnn, skeleton
from loupe.models.layers import Dropout
from loupe.models.summary import count_parameters, layer_table
from loupe.records import RecordError

TEN = tuple("abcdefghij")


def at(px: int) -> Preprocessing:
    return Preprocessing(size_px=px, load_px=px)


# total, non-trainable: as printed by, or derived from, the documents that describe these networks.
PUBLISHED = {
    "simple-cnn": (32, TEN, 528_054, 0),
    "deep-cnn": (32, TEN, 309_290, 896),
    "catsdogs-cnn": (150, ("one sigmoid output",), 1_212_513, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    px, classes, total, frozen = PUBLISHED[name]
    counts = count_parameters(skeleton(network(name), at(px), classes))
    assert counts == {"total": total, "trainable": total - frozen, "non_trainable": frozen}


def test_two_softmax_outputs_cost_one_unit_more_than_a_sigmoid():
    counts = count_parameters(skeleton(network("catsdogs-cnn"), at(150), ("cat", "dog")))
    assert counts["total"] == 1_212_513 + 64 + 1


def size_for(name: str) -> int:
    return {"digits-cnn": 8, "photo-cnn": 64, "catsdogs-cnn": 64}.get(name, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_the_contract(name):
    """Shapes, counts that add up, initial weights from the seed alone, gradients everywhere, channels-last."""
    px = size_for(name)
    model = cnn(network(name), at(px), ("x", "y", "z"), seed=3)
    again = cnn(network(name), at(px), ("x", "y", "z"), seed=3)
    other = cnn(network(name), at(px), ("x", "y", "z"), seed=4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    x_BCHW = torch.rand(4, 3, px, px).to(memory_format=torch.channels_last)
    logits_BK = model(x_BCHW)
    assert logits_BK.shape == (4, 3)
    logits_BK.logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    rows = layer_table(model)
    assert sum(row["parameters"] for row in rows) == count_parameters(model)["total"]
    assert rows[-1]["output"] == [3]
    assert model.training, "the table leaves the model as it was"
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in model.parameters() if w.ndim == 4)


def test_building_does_not_touch_the_global_random_stream():
    before = torch.get_rng_state()
    cnn(network("deep-cnn"), at(32), TEN, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("init", ["glorot", "uniform"])
def test_initial_weights_follow_keras(init):
    """Glorot: uniform within sqrt(6 / (fan in + fan out)), each fan 9 positions of 16 channels; or within 0.05."""
    spec = CnnSpec(name="one", blocks=(ConvBlock(filters=(16, 16)),), init=init)
    weight = cnn(spec, at(8), TEN, seed=0).trunk.block1.conv2.weight
    bound = (6 / (9 * 16 + 9 * 16)) ** 0.5 if init == "glorot" else 0.05
    assert weight.min() >= -bound
    assert weight.max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_identity_weights_pass_as_many_channels_on_as_there_are_and_the_rest_are_random():
    spec = CnnSpec(name="one", blocks=(ConvBlock(filters=(5,), activation="none", pool_px=1),), init="identity")
    x_BCHW = torch.rand(2, 3, 6, 6)
    out = cnn(spec, at(6), TEN, seed=0).trunk(x_BCHW)
    assert torch.equal(out[:, :3], x_BCHW)
    plain = cnn(spec.model_copy(update={"init": "he"}), at(6), TEN, seed=0).trunk(x_BCHW)
    assert torch.equal(out[:, 3:], plain[:, 3:])


@pytest.mark.parametrize("pool_after", ["first", "last"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_layers_of_a_block_are_in_the_order_that_its_spec_says(norm_first, pool_after):
    block = ConvBlock(
        filters=(4, 6), padding="valid", activation="gelu", norm="each", norm_first=norm_first, pool_after=pool_after
    )
    trunk = cnn(CnnSpec(name="one", blocks=(block,), pooling="max"), at(12), TEN, seed=0).double().trunk.block1
    x_BCHW = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    made = x_BCHW
    for number in (1, 2):
        convolution = trunk.get_submodule(f"conv{number}")
        assert (convolution.bias is None) == norm_first
        made = F.conv2d(made, convolution.weight, convolution.bias)
        pooled = number == (1 if pool_after == "first" else 2)
        if pooled and norm_first:
            made = F.max_pool2d(made, 2)
        made = made if norm_first else F.gelu(made)
        deviation, mean = torch.std_mean(made, dim=(0, 2, 3), correction=0, keepdim=True)
        made = (made - mean) / (deviation**2 + 1e-3).sqrt()
        made = F.gelu(made) if norm_first else made
        if pooled and not norm_first:
            made = F.max_pool2d(made, 2)
    torch.testing.assert_close(trunk(x_BCHW), made)


def test_without_a_norm_a_block_pools_after_a_gelu_that_falls_and_rises():
    spec = CnnSpec(name="one", blocks=(ConvBlock(filters=(4,), activation="gelu"),))
    block, x_BCHW = cnn(spec, at(6), TEN, seed=0).trunk.block1, torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(block(x_BCHW), F.max_pool2d(F.gelu(block.conv1(x_BCHW)), 2))


def test_max_pooling_takes_the_largest_value_of_each_channel():
    spec = CnnSpec(name="one", blocks=(ConvBlock(filters=(4,)),), pooling="max")
    x_BCHW = torch.rand(2, 3, 8, 8)
    model = cnn(spec, at(8), TEN, seed=0)
    assert torch.equal(model.head.pool(model.trunk(x_BCHW)), F.adaptive_max_pool2d(model.trunk(x_BCHW), 1)[:, :, 0, 0])
    assert model(torch.rand(2, 3, 20, 14)).shape == (2, 10), "whatever the size of the map"


def test_even_kernels_pad_on_the_right_and_below_as_tensorflow_does():
    spec = CnnSpec(name="one", blocks=(ConvBlock(filters=(1,), kernel_px=2, activation="none", pool_px=1),))
    model = cnn(spec, at(4), TEN, seed=0)
    torch.nn.init.ones_(model.trunk.block1.conv1.weight)
    out = model.trunk(torch.ones(1, 3, 4, 4))[0, 0]
    assert out[0, 0].item() == 12, "nothing is padded above and to the left"
    assert out[3, 3].item() == 3


def test_pooling_before_the_rectifier_gives_the_same_values_and_gradients():
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    results = []
    for layers in ((torch.nn.ReLU(), torch.nn.MaxPool2d(2)), (torch.nn.MaxPool2d(2), torch.nn.ReLU())):
        given = x.clone().requires_grad_()
        out = torch.nn.Sequential(*layers)(given)
        out.pow(2).sum().backward()
        results.append((out.detach(), given.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_gradients_come_to_batch_normalisation_as_its_maps_lie_in_memory():
    """After an average over the map they would not, and a CPU takes 15 times as long for them."""
    model = build(BackboneSpec(backbone="test_efficientnet", weights="none"), at(64), TEN, seed=0).train()
    plain = copy.deepcopy(model)
    for layer in plain.trunk.modules():
        layer._forward_hooks.clear()
    x_BCHW = torch.rand(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    layouts = {}
    for name, one in (("ours", model), ("plain", plain)):
        found = layouts[name] = []

        def watch(_layer, _inputs, made_BCHW, found=found):
            made_BCHW.register_hook(
                lambda gradient: found.append(gradient.is_contiguous(memory_format=torch.channels_last))
            )

        for layer in one.trunk.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.register_forward_hook(watch)
        one(x_BCHW).square().mean().backward()
    assert all(layouts["ours"])
    assert not all(layouts["plain"])
    whole = torch.cat([weight.grad.flatten() for weight in plain.parameters()]).norm()
    for name, weight in plain.named_parameters():  # biases before a normalisation have gradients of rounding alone
        apart = (model.get_parameter(name).grad - weight.grad).norm()
        assert apart <= 1e-3 * weight.grad.norm() + 1e-5 * whole


def test_images_too_small_for_the_network_are_refused_with_the_remedy():
    with pytest.raises(LoupeError, match=r"input\.size_px"):
        skeleton(network("photo-cnn"), at(16), TEN)


def test_an_unknown_network_names_the_nearest():
    with pytest.raises(LoupeError, match="Did you mean simple-cnn"):
        network("simplecnn")


def test_a_bundle_brings_the_same_function_back(tmp_path):
    model = cnn(network("deep-cnn"), at(32), TEN, seed=1)
    x_BCHW = torch.rand(2, 3, 32, 32)
    model(x_BCHW)  # moves the running statistics, which must travel too
    model.temperature = 1.37
    bundle.save(tmp_path, model, network("deep-cnn"), "fp32")
    back, precision = bundle.load(tmp_path, torch.device("cpu"))
    assert precision == "fp32"
    assert back.classes == TEN
    assert back.temperature == 1.37
    assert back.preprocessing == model.preprocessing
    assert torch.equal(back(x_BCHW), model.eval()(x_BCHW))


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "levit_128s"])
def test_a_bundle_brings_back_what_a_network_computes_of_its_sizes_and_does_not_store(tmp_path, name):
    spec = BackboneSpec(backbone=name, weights="none")
    model = build(spec, at(224), TEN, seed=1).eval()
    x_BCHW = torch.rand(1, 3, 224, 224)
    bundle.save(tmp_path, model, spec, "fp32")
    back, _ = bundle.load(tmp_path, torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(back(x_BCHW), model(x_BCHW))


def test_a_damaged_bundle_is_refused(tmp_path):
    bundle.save(tmp_path, cnn(network("digits-cnn"), at(8), TEN, seed=1), network("digits-cnn"), "fp32")
    weights = bytearray((tmp_path / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(weights)
    with pytest.raises(LoupeError, match="damaged"):
        bundle.load(tmp_path, torch.device("cpu"))
    (tmp_path / "config.json").unlink()
    with pytest.raises(RecordError) as told:
        bundle.load(tmp_path, torch.device("cpu"))
    assert told.value.path == tmp_path / "config.json"


def test_a_bundle_without_a_temperature_has_one_and_a_strange_one_is_refused(tmp_path):
    bundle.save(tmp_path, cnn(network("digits-cnn"), at(8), TEN, seed=1), network("digits-cnn"), "fp32")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("temperature") == 1.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert bundle.load(tmp_path, torch.device("cpu"))[0].temperature == 1.0
    (tmp_path / "config.json").write_text(json.dumps(config | {"temperature": 0}))
    with pytest.raises(LoupeError, match="temperature"):
        bundle.load(tmp_path, torch.device("cpu"))


def test_a_bundle_of_a_network_that_is_cut_at_other_places_here_says_so(tmp_path):
    bundle.save(tmp_path, cnn(network("digits-cnn"), at(8), TEN, seed=1), network("digits-cnn"), "fp32")
    weights = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    renamed = safetensors.torch.save({f"features.{name}": value for name, value in weights.items()})
    (tmp_path / "weights.safetensors").write_bytes(renamed)
    config = json.loads((tmp_path / "config.json").read_text())
    digest = hashlib.blake2b(renamed, digest_size=len(config["weights_blake2b"]) // 2).hexdigest()
    (tmp_path / "config.json").write_text(json.dumps(config | {"weights_blake2b": digest}))
    with pytest.raises(LoupeError, match="do not fit digits-cnn as this Loupe and this timm build it"):
        bundle.load(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 8, 12, 12), (64, 500), (3, 5, 7, 1)])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(shape, rate, dtype):
    torch.manual_seed(0)
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    layer = Dropout(rate)
    y = layer(x)
    y.sum().backward()
    kept = (y != 0).float()
    sigma = (rate * (1 - rate) / y.numel()) ** 0.5
    assert abs(kept.mean().item() - (1 - rate)) < 4.5 * sigma
    torch.testing.assert_close(y.float(), kept / (1 - rate), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=0)
    assert torch.equal(x.grad, y.detach()), "the gradient passes where the value does, scaled alike"
    assert torch.equal(layer.eval()(x), x)


def test_dropout_depends_on_the_seed_alone_and_keeps_channels_last():
    x = torch.rand(4, 8, 6, 6).to(memory_format=torch.channels_last)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert masks[0].is_contiguous(memory_format=torch.channels_last)


def test_dropout_masks_of_neighbours_are_independent():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(2**16)) != 0).double().numpy()
    for lag in (1, 2, 3, 4, 8):
        agreement = (kept[lag:] == kept[:-lag]).mean()
        assert abs(agreement - 0.5) < 4.5 * 0.5 / (2**16 - lag) ** 0.5
