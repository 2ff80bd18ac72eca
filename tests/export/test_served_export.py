"""An exported model that is served: by a process that loads nothing of what trains models."""

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

TRAINING = {"torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib", "pyarrow", "pandas"}
SERVER = """
import json, sys
sys.argv = ["loupe", "serve", sys.argv[1], "--port", "0", "--decoders", "1", "--quiet"]
from loupe.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
REQUIREMENTS = Path(__file__).parents[2] / "docs" / "serve" / "requirements.txt"


def listed() -> set[str]:
    """Distributions that a server of an ONNX export is installed with."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def with_their_own(names: set[str]) -> set[str]:
    """The distributions and all that they are installed with."""
    found, waiting = set(), set(names)
    while waiting:
        found.add(name := waiting.pop())
        wanted = map(Requirement, requires(name) or ())
        waiting |= {
            canonicalize_name(each.name) for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})
        } - found
    return found


def libraries(pid: int) -> str:
    """Files that a process has mapped, among them its compiled libraries; nothing where the system does not say."""
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
def test_a_server_of_an_onnx_export_loads_nothing_of_training(exported):
    for package in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        pytest.importorskip(package)
    child = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(exported)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        address = child.stdout.readline().split()[-1]
        picture = io.BytesIO()
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(picture, "PNG")
        request = urllib.request.Request(
            f"{address}predict", data=picture.getvalue(), headers={"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert len(json.load(answer)["images"]) == 1
        mapped = {pid: libraries(pid) for pid in (child.pid, *children(child.pid))}
        child.send_signal(signal.SIGTERM)
        told = child.communicate(timeout=30)[0]
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0
    modules = set(json.loads(told.strip().splitlines()[-1]))
    assert modules & TRAINING == set()
    assert not [name for name in TRAINING for text in mapped.values() if f"site-packages/{name}/" in text]
    # The list from which images are built is neither too long nor too short.
    by_module, needed = packages_distributions(), with_their_own(listed())
    imported = set()
    for module in modules:
        owners = {canonicalize_name(name) for name in by_module.get(module, ())}
        imported |= owners & needed or owners  # several share a namespace, such as `google`
    assert listed() <= imported
    assert imported - needed <= {"loupe-vision", "setuptools"}
