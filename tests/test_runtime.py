"""What holds for all arithmetic of a process, without the devices that it is for."""

from pathlib import Path

import pytest
import torch

from loupe import predictor
from loupe.runtime import Arithmetic

SOURCE = Path(__file__).parents[1] / "src" / "loupe"


@pytest.fixture
def tf32():
    """TF32 is allowed, as PyTorch allows it to convolutions by default; afterwards it is as it was."""
    before = allowed()
    allow(True, True)
    yield
    allow(*before)


def allowed() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def allow(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_fp32_is_fp32_on_a_gpu_whatever_computes_there(tf32, device, precision):
    Arithmetic(torch.device(device), precision)
    assert allowed() == (False, False)


def test_another_precision_does_not_bring_tf32_back(tf32):
    for precision in ("fp32", "bf16"):  # as they take turns when they are timed
        Arithmetic(torch.device("cuda"), precision)
    assert allowed() == (False, False)


def test_both_kinds_of_switches_can_be_read_afterwards(tf32):
    Arithmetic(torch.device("cuda"), "fp32")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # reads the older ones
        pass
    if hasattr(torch.backends.cudnn, "conv"):
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
        assert torch.backends.cuda.matmul.fp32_precision != "tf32"


def test_whoever_loads_a_network_to_predict_keeps_freed_memory_first(monkeypatch):
    done = []
    monkeypatch.setattr(predictor, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(predictor.bundle, "load", lambda *_: (done.append("loaded"), "fp32"))
    stored = predictor.Predictor(Path("model"), device="cpu")
    assert done == [], "before it is asked, nothing is done to the process"
    _ = stored.model, stored.model
    assert done == ["kept", "loaded"]


def test_elsewhere_nothing_is_switched(tf32):
    Arithmetic(torch.device("cpu"), "fp32")
    assert allowed() == (True, True)


def test_only_the_runtime_chooses_a_precision():
    texts = {path.name: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    users = {name for name, text in texts.items() if "torch.autocast" in text or "tf32" in text}
    assert users == {"runtime.py"}
