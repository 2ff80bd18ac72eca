"""Waiting of OpenMP's threads: set before its library is loaded, and never in place of what a user has set."""

import os
import subprocess
import sys

import pytest

from loupe import openmp

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is set where it was measured")
OURS = {"GOMP_SPINCOUNT": openmp.TURNS}


@pytest.fixture
def unset(monkeypatch):
    for name in openmp.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_it_is_set_once_and_said_to_be_loupes(unset):
    unset.delitem(sys.modules, "torch", raising=False)
    assert (openmp.waiting(), openmp.set_by()) == ({}, "nobody")
    openmp.set_waiting()
    unset.setenv("GOMP_SPINCOUNT", os.environ["GOMP_SPINCOUNT"])  # it is taken away again after the test
    assert (openmp.waiting(), openmp.set_by()) == (OURS, "Loupe")


@pytest.mark.parametrize("variable", ["OMP_WAIT_POLICY=active", "GOMP_SPINCOUNT=7", "KMP_BLOCKTIME=1"])
def test_what_the_user_has_set_stays(unset, variable):
    name, _, value = variable.partition("=")
    unset.setenv(name, value)
    unset.delitem(sys.modules, "torch", raising=False)
    openmp.set_waiting()
    assert (openmp.waiting(), openmp.set_by()) == ({name: value}, "the user")


def test_it_is_not_set_where_the_library_is_loaded_and_would_not_read_it(unset):
    unset.setitem(sys.modules, "torch", sys)
    openmp.set_waiting()
    assert openmp.set_by() == "nobody"


def test_importing_loupe_sets_it_before_pytorch_for_children_too(unset):
    child = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    code = f"import sys, subprocess, loupe; subprocess.run([sys.executable, '-c', {child!r}])"
    for before, expected in (("", openmp.TURNS), ("import torch; ", "None")):
        done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
