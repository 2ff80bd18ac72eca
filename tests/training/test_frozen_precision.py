"""Precision of frozen blocks: a faster one only where the features stay the same."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import loupe
from loupe import devices
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute
from loupe.errors import LoupeError
from loupe.models import engine as engine_module
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines, TorchEngine
from loupe.training import precision

pytestmark = pytest.mark.usefixtures("bare")
PIXELS = Preprocessing(size_px=8, load_px=8)
CPU = torch.device("cpu")
STAGES = [{"epochs": 1, "lr": 3e-3}, {"epochs": 2, "part": "head", "lr": 3e-3}]


class Shifted(nn.Module):
    """Leaves of the features what is far behind the point: bf16 has eight binary digits, and they are used up."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 1000.0) - 1000.0


@pytest.fixture
def with_units(monkeypatch):
    """A processor with AMX, whatever the engine."""
    processor(monkeypatch, "amx_bf16")


def processor(patch: pytest.MonkeyPatch, *flags: str, vendor: str = "GenuineIntel") -> None:
    """A processor of that vendor with no other flags."""
    patch.setattr(devices, "processor_flags", lambda: frozenset(flags))
    patch.setattr(devices, "processor_vendor", lambda: vendor)
    patch.setattr(engine_module, "has_bf16_matrix_units", devices.has_bf16_matrix_units)  # `bare` has none


class FakeOpenVino:
    """OpenVINO's engine with PyTorch's arithmetic, which needs no compiler."""

    def __init__(self, blocks: nn.Sequential, compute: Compute, *_: object) -> None:
        self.run = TorchEngine(blocks, compute).run
        self.name = f"openvino-{compute.precision}"


@pytest.fixture
def with_openvino(monkeypatch):
    """OpenVINO, installed and able to run every network."""
    monkeypatch.setattr(engine_module, "engine_name", lambda compute: "openvino 2026.4.1")
    monkeypatch.setattr(engine_module, "openvino", lambda: None)
    for module in (engine_module, precision):
        monkeypatch.setattr(module, "OpenVinoEngine", FakeOpenVino)


def model(*last: nn.Module) -> Classifier:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sequential(*last, nn.Conv2d(16, 8, 1)))
    head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 36, 3))
    return Classifier(trunk, head, PIXELS, ("a", "b", "c"))


def resolved(network: Classifier, *, wanted="auto", asked="auto", run="fp32") -> tuple[str, str]:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    feed = BatchLoader(RawStore(pixels), np.arange(50) % 3, CPU)
    rows_N, engines = np.arange(50), Engines()
    return precision.resolve_frozen(
        wanted, asked=asked, run=run, model=network, loader=feed, rows_N=rows_N, engines=engines
    )


def test_a_processor_with_units_for_bf16_takes_it_where_the_features_agree(with_units):
    chosen, reason = resolved(model())
    assert chosen == "bf16"
    cosine = float(reason.rpartition(" ")[2].rstrip("."))
    assert 0.999 <= cosine <= 1.0


@pytest.mark.parametrize("run", ["fp32", "bf16"])
def test_features_that_do_not_agree_are_computed_in_fp32_whatever_the_training_is(with_units, run):
    chosen, reason = resolved(model(Shifted()), run=run)
    assert chosen == "fp32"
    assert "only" in reason


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"wanted": "fp32"}, "fp32"),
        ({"wanted": "bf16"}, "bf16"),
        ({"asked": "fp32"}, "fp32"),
        ({"asked": "bf16", "run": "bf16"}, "bf16"),
    ],
)
def test_what_is_named_is_done_and_nothing_is_compared(with_units, monkeypatch, settings, chosen):
    monkeypatch.setattr(precision, "agreement", None)
    assert resolved(model(), **settings) == (chosen, "")


@pytest.mark.parametrize("run", ["fp32", "bf16"])
def test_a_processor_without_such_units_computes_in_fp32(monkeypatch, run):
    processor(monkeypatch, "avx512f")
    assert resolved(model(), run=run) == ("fp32", "")


@pytest.mark.parametrize(
    ("flags", "vendor", "matrices", "gains"),
    [
        ({"avx2", "avx512f"}, "AuthenticAMD", False, False),
        ({"avx512f", "avx512_bf16"}, "AuthenticAMD", False, True),
        ({"avx512f", "avx512_bf16"}, "GenuineIntel", False, False),
        ({"avx512f", "avx512_bf16", "amx_bf16"}, "GenuineIntel", True, True),
    ],
)
def test_the_units_of_a_processor_that_pytorch_and_openvino_gain_from(monkeypatch, flags, vendor, matrices, gains):
    processor(monkeypatch, *flags, vendor=vendor)
    assert devices.has_bf16_matrix_units(CPU) == matrices
    assert devices.openvino_gains_from_bf16(CPU) == gains
    assert engine_module.engine_gains_from_bf16(CPU) == matrices, "PyTorch, as OpenVINO is absent"
    monkeypatch.setattr(engine_module, "engine_name", lambda compute: "openvino 2026.4.1")
    assert engine_module.engine_gains_from_bf16(CPU) == gains
    gpu = torch.device("cuda")
    assert not devices.has_bf16_matrix_units(gpu)
    assert not devices.openvino_gains_from_bf16(gpu)


@pytest.mark.parametrize(("last", "chosen"), [((), "bf16"), ((Shifted(),), "fp32")])
def test_openvino_on_amd_takes_bf16_where_the_features_agree(monkeypatch, with_openvino, last, chosen):
    processor(monkeypatch, "avx512_bf16", vendor="AuthenticAMD")
    found, reason = resolved(model(*last))
    assert found == chosen
    assert "cosine" in reason


def test_pytorch_on_amd_computes_in_fp32_and_compares_nothing(monkeypatch):
    processor(monkeypatch, "avx512_bf16", vendor="AuthenticAMD")
    monkeypatch.setattr(precision, "agreement", None)
    assert resolved(model()) == ("fp32", "")


def test_blocks_that_openvino_cannot_run_are_computed_in_fp32_on_amd(monkeypatch, with_openvino):
    def refuse(*_: object) -> None:
        raise RuntimeError("an operation that it does not know")

    processor(monkeypatch, "avx512_bf16", vendor="AuthenticAMD")
    monkeypatch.setattr(FakeOpenVino, "__init__", refuse)
    monkeypatch.setattr(precision, "agreement", None)
    assert resolved(model()) == ("fp32", "")


def test_the_agreement_is_the_mean_cosine_of_what_the_trunk_makes():
    network = model()
    x = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    feed = BatchLoader(RawStore(x), np.arange(50) % 3, CPU)
    found = precision.agreement(network, "bf16", loader=feed, rows_N=np.arange(32), engines=Engines())
    with torch.no_grad():
        given = torch.from_numpy(x[:32]).permute(0, 3, 1, 2) / 255
        whole = network.trunk.eval()(given).mean(dim=(2, 3)).double()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network.trunk(given).float().mean(dim=(2, 3)).double()
    assert found == pytest.approx(float(nn.functional.cosine_similarity(whole, rounded).mean()), abs=2e-5)
    assert found < 1.0


def test_a_run_records_it_and_is_repeated_with_it(tmp_path, monkeypatch, with_units):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    bunch = load_digits()
    images = (bunch.images[:200] * 15.9375).astype(np.uint8), bunch.target[:200]
    asked = {"recipe": "digits", "output": tmp_path, "device": "cpu", "quiet": True}
    run = loupe.train(images, settings={"stages": STAGES}, name="first", **asked)
    assert run.results.frozen_precision == "bf16"
    assert run.results.precision == "fp32"
    recorded = run.directory.read_recipe()
    assert (recorded.precision, recorded.frozen_precision) == ("fp32", "bf16")
    processor(monkeypatch, "avx512f")  # another machine
    again = loupe.train(images, **{**asked, "recipe": recorded}, name="again")
    assert again.results.frozen_precision == "bf16"
    assert again.results.test == run.results.test


def test_a_run_that_freezes_nothing_has_none(tmp_path):
    run = loupe.train("digits", settings={"stages": STAGES[:1]}, output=tmp_path, name="d", device="cpu", quiet=True)
    assert run.results.frozen_precision is None


def test_a_precision_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(LoupeError, match="fp8"):
        loupe.train("digits", settings={"frozen_precision": "fp8"}, output=tmp_path, quiet=True)


def test_an_engine_is_built_again_only_for_other_weights_blocks_or_precision(monkeypatch):
    built = []
    monkeypatch.setattr("loupe.models.engine.engine", lambda *key: (built.append(key), ""))
    engines, trunk = Engines(), model().trunk
    whole, half = Compute(CPU, "fp32"), Compute(CPU, "bf16")
    for blocks, compute, number in (
        (trunk, whole, 1),
        (copy.deepcopy(trunk), whole, 1),
        (trunk, half, 2),
        (trunk[:1], half, 3),
        (model(nn.ReLU()).trunk[:1], half, 3),
        (trunk, half, 4),
    ):
        engines.of(blocks, compute, PIXELS.size)
        assert len(built) == number
    with torch.no_grad():
        trunk[0].bias += 1
    engines.of(trunk, half, PIXELS.size)
    assert len(built) == 5


@pytest.mark.parametrize(("cosine", "chosen"), [(0.9985, "fp32"), (0.9995, "bf16")])
def test_a_plan_times_what_is_frozen_in_the_precision_that_the_run_will_take(
    with_units, monkeypatch, tmp_path, cosine, chosen
):
    built = []
    whole = Engines.of

    def noted(self, blocks, compute, *shape):
        built.append(compute.precision)
        return whole(self, blocks, compute, *shape)

    monkeypatch.setattr(precision, "agreement", lambda *_, **__: cosine)
    monkeypatch.setattr(Engines, "of", noted)
    bunch = load_digits()
    data = (bunch.images[:200] * 15.9375).astype(np.uint8), bunch.target[:200]
    asked = {"settings": [f"stages={STAGES}"], "output": tmp_path, "quiet": True, "plan_only": True}
    loupe.compare(data, recipes=["digits", "digits-plain"], **asked)
    assert set(built) == {chosen}
