"""Loupe on an NVIDIA GPU: `pytest -m gpu` on a machine that has one; with the slow tests also on a simulated one."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import loupe
from child_processes import killed_in_step
from loupe.augment.pipeline import Augmenter
from loupe.config.network import BackboneSpec
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute
from loupe.errors import NotEnoughMemoryError
from loupe.evaluate import inference
from loupe.explain import cam
from loupe.explain.feature_maps import choose_layer
from loupe.models.build import build
from loupe.models.catalog import NETWORKS, network
from loupe.training import logistic
from simulated_gpu import simulated_gpu

pytestmark = pytest.mark.usefixtures("bare")
CPU, CLASSES = torch.device("cpu"), ("a", "b", "c")
AUGMENTS = {
    "affine": {"rotation_degrees": 15, "width_shift": 0.1, "zoom": (0.9, 1.1), "brightness": (0.5, 1.5)},
    "flips and crop": {"horizontal_flip": True, "crop_padding_px": 4, "cutout_px": 8},
    "resized crop": {"random_resized_crop": (0.3, 1.0)},
}


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.gpu), pytest.param("simulated", marks=pytest.mark.slow)])
def gpu(request) -> Iterator[torch.device]:
    if request.param == "simulated":
        with simulated_gpu():
            yield torch.device("cuda")
    elif torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        pytest.skip("PyTorch finds no CUDA device")


def digits(images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return (bunch.images[:images] * 15.9375).astype(np.uint8), bunch.target[:images]


def trained(output, name: str, device: str = "cuda", **settings: object) -> loupe.Run:
    stage = {"epochs": 4, "batch_size": 32, "lr": 3e-3, "augment": {"rotation_degrees": 10}, "ema_decay": 0.9}
    return loupe.train(
        digits(),
        recipe="digits",
        settings={"stages": [stage], "precision": "fp32", **settings},
        output=output,
        name=name,
        device=device,
        quiet=True,
    )


def images(count: int, side: int) -> RawStore:
    """Smooth images, in which a shift by a rounding error changes no pixel visibly."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fine_NCHW = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return RawStore((255 * fine_NCHW).to(torch.uint8).permute(0, 2, 3, 1).numpy().copy())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(gpu, tmp_path, precision):
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    whole = trained(tmp_path, "whole", precision=precision)
    with killed_in_step(20):
        trained(tmp_path, "killed", precision=precision)
    resumed = loupe.resume(tmp_path / "killed", digits(), quiet=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    assert resumed.results.test == whole.results.test


def test_a_run_learns_and_predicts_the_same_on_the_cpu(gpu, tmp_path):
    run = trained(tmp_path, "gpu")
    assert run.results.validation is not None and run.results.validation.accuracy.value > 0.6
    again = loupe.load(run.path, device="cpu")
    on_gpu, on_cpu = (one.predict_proba(digits()[0]) for one in (run, again))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


@pytest.mark.parametrize("name", ["deep-cnn", "test_efficientnet", "test_vit"])
def test_logits_and_maps_are_those_of_the_cpu(gpu, name):
    spec = network(name) if name in NETWORKS else BackboneSpec(backbone=name, weights="none")
    preprocessing, found = Preprocessing(size_px=32, load_px=32), []
    for device in (gpu, CPU):
        model = build(spec, preprocessing, CLASSES, seed=0).to(device).eval()
        loader = BatchLoader(images(40, 32), np.arange(40) % 3, device)
        logits_NK = inference.logits(model, loader, np.arange(40), Compute(device, "fp32"))
        [first, *_] = loader.batches(np.arange(4), 4)
        x_BCHW = first.x_BCHW.float() / 255
        maps = cam.class_maps(model, x_BCHW, first.y_B, choose_layer(model)) if find_captum() else logits_NK
        found.append((logits_NK, np.asarray(maps.cpu() if isinstance(maps, torch.Tensor) else maps)))
    for on_gpu, on_cpu in zip(*found, strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4 * max(1.0, np.abs(on_cpu).max()))


def find_captum() -> bool:
    try:
        import captum  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("name", AUGMENTS)
def test_augmentation_is_that_of_the_cpu(gpu, name):
    preprocessing = Preprocessing(size_px=32, load_px=32)
    augmenter, found = Augmenter(AugmentSpec(**AUGMENTS[name]), preprocessing, seed=1), []
    for device in (gpu, CPU):
        [batch] = BatchLoader(images(64, 32), np.arange(64) % 3, device).batches(np.arange(64), 64)
        found.append(augmenter.train(batch.x_BCHW, batch.index_B, epoch=2).cpu())
    torch.testing.assert_close(*found, rtol=0, atol=1e-3)


def test_heads_are_solved_as_on_the_cpu(gpu):
    features_NC = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    label_N = (features_NC[:, :3] + 0.5 * features_NC[:, 3:6]).argmax(dim=1)
    found = [logistic.Regression(features_NC.to(on), label_N.to(on), 3).solve(1.0) for on in (gpu, CPU)]
    assert all(solution.converged for solution in found)
    torch.testing.assert_close(found[0].weight_KC.cpu(), found[1].weight_KC, rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_reduced_precision_learns(gpu, tmp_path, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    run = trained(tmp_path, "reduced", precision=precision)
    assert run.results.validation is not None and run.results.validation.accuracy.value > 0.6


def test_a_gpu_that_is_full_is_one_error(gpu, tmp_path):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0)
    try:
        with pytest.raises(NotEnoughMemoryError, match="--batch-size 16"):
            trained(tmp_path, "full")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert trained(tmp_path, "after").results.test is not None
