"""Networks on CUDA without CUDA: forward by PyTorch's fake tensors, training and maps on a simulated GPU."""

import numpy as np
import pytest
import timm
import torch
from torch._subclasses import FakeTensorMode

from loupe.augment import pixels
from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.network import BackboneSpec, Network
from loupe.config.optimizer import Sgd
from loupe.config.recipe import AugmentSpec, Preprocessing, Stage
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute
from loupe.explain import cam, filters
from loupe.explain.feature_maps import choose_layer
from loupe.models.build import build, skeleton
from loupe.models.catalog import NETWORKS, network
from loupe.models.classifier import Classifier
from loupe.training.train_step import TrainStep

CLASSES = ("cat", "dog", "frog")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
OF_TIMM = """
    mobilenetv3_small_050 mobilenetv1_075 resnet10t test_vit3 regnetx_002 test_nfnet test_mambaout fasternet_t0
    ghostnet_050 resnetv2_18 legacy_seresnet18 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 test_coatnet
    eva02_tiny_patch14_224 vit_tiny_patch16_dinov3_qkvb deit_tiny_distilled_patch16_224 test_vit_relpos
    beit_base_patch16_224 poolformerv2_s12 densenet121 cs3darknet_focus_s mixer_s32_224 xcit_nano_12_p16_224
    test_byobnet test_convnext volo_d1_224 crossvit_15_240 convit_tiny maxvit_tiny_tf_224 levit_128s hiera_tiny_224
    davit_tiny
"""
TRAINED = ("test_efficientnet", "test_convnext", "test_vit", "test_byobnet")


@pytest.fixture(autouse=True)
def _no_fake_constants():
    """The constants of normalisation are kept for each device: those of fake tensors do not serve others."""
    yield
    pixels._scale_and_offset.cache_clear()


def sized(size_px: int) -> Preprocessing:
    return Preprocessing(size_px=size_px, load_px=size_px)


def check_forward(spec: Network, size_px: int) -> None:
    """Augmentation, evaluation view, and a network in training and in evaluation mode, on fake tensors."""
    preprocessing = sized(size_px)
    model = skeleton(spec, preprocessing, CLASSES)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    augmenter = Augmenter(AugmentSpec(rotation_degrees=10, fill="constant", cutout_px=4), preprocessing, 0)
    with FakeTensorMode(), torch.no_grad():
        state = {name: torch.empty(value.shape, dtype=value.dtype, device=GPU) for name, value in own.items()}
        x_BCHW = torch.empty(2, size_px, size_px, 3, dtype=torch.uint8, device=GPU).permute(0, 3, 1, 2)
        views = {True: augmenter.train(x_BCHW, np.arange(2), 0), False: evaluation_view(x_BCHW, preprocessing)}
        for training, view in views.items():
            logits_BK = torch.func.functional_call(model.train(training), state, (view,))
            assert logits_BK.device.type == "cuda" and logits_BK.shape == (2, len(CLASSES))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_loupe_compute_on_one_device(name):
    check_forward(network(name), 48)


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_vit", *(pytest.param(name, marks=pytest.mark.slow) for name in OF_TIMM.split())]
)
def test_networks_of_timm_compute_on_one_device(name):
    if not timm.is_model(name) and not name.startswith("mobilenetv1"):
        pytest.skip(f"this timm has no {name}")
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    check_forward(BackboneSpec(backbone=name, weights="none"), known.input_size[-1] if known else 224)


def test_fake_tensors_refuse_a_constant_that_stays_on_the_cpu():
    class Shifted(torch.nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW + torch.ones(3, 1, 1)

    with FakeTensorMode(), pytest.raises(RuntimeError, match="two devices"):
        Shifted()(torch.empty(2, 3, 4, 4, device=GPU))


def built(name: str, device: torch.device) -> Classifier:
    spec = network(name) if name in NETWORKS else BackboneSpec(backbone=name, weights="none")
    return build(spec, sized(32), CLASSES, seed=0).to(device)


@pytest.mark.parametrize("name", ["lecture-batchnorm", "project-cnn", *TRAINED])
def test_networks_train_on_the_gpu_as_on_the_cpu(simulated, name):
    store = RawStore(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    stage, losses = Stage(epochs=1, optimizer=Sgd(), augment=AugmentSpec(zoom=(0.9, 1.1))), []
    for device in (GPU, CPU):
        model = built(name, device)
        if name in NETWORKS:  # dropout draws other random numbers on a GPU
            for layer in model.modules():
                if isinstance(layer, torch.nn.Dropout):
                    layer.p = 0.0
        train_step = TrainStep(model, stage, Augmenter(stage.augment, sized(32), 0), Compute(device, "fp32"), None)
        [batch] = BatchLoader(store, np.arange(4) % 3, device).batches(np.arange(4), 4)
        losses.append([train_step.step(batch, None, epoch=0, step=s, steps=s, lr=0.01).tolist() for s in range(2)])
        assert {value.device.type for value in model.state_dict().values()} == {device.type}
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["lecture-cnn", "test_convnext", "test_vit"])
@pytest.mark.parametrize("method", cam.METHODS)
def test_class_maps_are_those_of_the_cpu(simulated, name, method):
    pytest.importorskip("captum")
    x_BCHW, class_B = torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    maps = []
    for device in (GPU, CPU):
        model = built(name, device).eval()
        maps.append(cam.class_maps(model, x_BCHW.to(device), class_B.to(device), choose_layer(model), method))
    assert maps[0].device.type == "cuda" and torch.equal(maps[0].cpu(), maps[1])


def test_images_of_filters_are_those_of_the_cpu(simulated):
    made = []
    for device in (GPU, CPU):
        model = built("lecture-batchnorm", device).eval()
        [layer, *_] = filters.default_layers(model)
        made += filters.maximise(model, layer, [0, 3], filters.AscentSettings(steps=5))
    on_gpu, on_cpu = made[:2], made[2:]
    for mine, theirs in zip(on_gpu, on_cpu, strict=True):
        assert np.array_equal(mine.pixels_RHWC, theirs.pixels_RHWC) and mine.activation_R == theirs.activation_R
