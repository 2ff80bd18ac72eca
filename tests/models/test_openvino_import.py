"""OpenVINO in a process that is to go on after Ctrl-C."""

import subprocess
import sys

import pytest

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
