"""OpenVINO in a process that is to go on after Ctrl-C."""

import subprocess
import sys

import pytest

from loupe.models import openvino_import

SIGNAL_AFTER_TWO_ENGINES = """
import gc, signal
from pathlib import Path
import numpy as np
import openvino as ov
from loupe.models.openvino_import import core
from loupe.models.openvino_network import OpenVinoNetwork

x = ov.opset13.parameter([-1, 2, 2, 3], np.uint8)
network = ov.Model([ov.opset13.convert(x, "f32")], [x])
ov.serialize(network, "network.xml")
files = Path("network.xml").read_bytes(), Path("network.bin").read_bytes()
engines = [OpenVinoNetwork(files, "fp32") for _ in range(3)]
assert core() is core()
while engines:
    engines.pop(0)
    gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_is_handled_after_several_engines_have_ended(tmp_path):
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SIGNAL_AFTER_TWO_ENGINES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(("threads", "is_bound"), [(1, False), (3, False), (4, True), (8, True)])
def test_fewer_threads_than_cores_are_bound_to_none(monkeypatch, threads, is_bound):
    monkeypatch.setattr(openvino_import, "cores", lambda: 4)
    options = openvino_import.on_threads(threads)
    assert options["INFERENCE_NUM_THREADS"] == threads
    assert options.get("ENABLE_CPU_PINNING", True) is is_bound
