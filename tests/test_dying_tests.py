"""Tests that hang or end their process: each fails, once, and the other tests of its file are run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BOTH = """
import os, re, time, pytest
def test_first(): pass
def test_loop():
    while True: pass
def test_native(): re.match("(a+)+$", "a" * 60 + "b")
def test_between(): pass
def test_dies(): os.abort()
@pytest.mark.slow
def test_slow(): time.sleep(2.5)
def test_last(): pass
"""


@pytest.mark.slow
def test_a_test_that_hangs_or_dies_is_one_failure(tmp_path):
    (tmp_path / "conftest.py").write_text("import dying_tests\ndying_tests.SECONDS = 2\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (tmp_path / "test_both.py").write_text(BOTH)
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    options = ["-p", "dying_tests", "-n", "2", "--dist", "worksteal", "-rA", "--color=no"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    ends = {
        kind: sorted(line.split()[1].split("::")[1] for line in lines if line.startswith(f"{kind} "))
        for kind in ("PASSED", "FAILED")
    }
    assert ends == {
        "PASSED": ["test_between", "test_first", "test_last", "test_other", "test_slow"],
        "FAILED": ["test_dies", "test_loop", "test_native"],
    }
    assert "in test_loop" in done.stderr and "in test_native" in done.stderr and "in test_dies" in done.stderr
