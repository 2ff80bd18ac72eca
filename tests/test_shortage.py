"""Memory and disks that run out: one sentence with the remedy, and any other error as it was."""

import errno
import os

import pytest
import torch

from loupe import files, rundir
from loupe.errors import LoupeError, disk_error, memory_remedy
from loupe.rundir import RunDirectory, count_looks, record_look

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.78 GiB of which 1.2 GiB is free. "
    "See documentation for Memory Management"
)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError(CUDA), "CUDA out of memory. Tried to allocate 2.00 GiB)"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.1 GB)."), "MPS backend out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "8 bytes"),
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"), "ALLOC_FAILED"),
        (MemoryError(), "the machine has none left"),
    ],
)
def test_memory_that_runs_out_is_a_sentence_with_the_remedy(error, says):
    with pytest.raises(LoupeError, match=r"not enough memory.* Buy more\.$") as caught, memory_remedy("Buy more."):
        raise error
    assert says in str(caught.value) and "Memory Management" not in str(caught.value)


def test_the_allocator_of_this_machine_is_understood():
    with pytest.raises(LoupeError, match="not enough memory"), memory_remedy("Buy more."):
        torch.empty(2**58, dtype=torch.uint8)


def test_other_errors_stay_as_they_are():
    for error in (RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(errno.ENOSPC, "full")):
        with pytest.raises(type(error)) as caught, memory_remedy("Buy more."):
            raise error
        assert caught.value is error
    assert disk_error(OSError(errno.ENOENT, "gone"), "here", "look again") is None


def test_a_run_whose_disk_is_full_says_how_to_go_on(tmp_path):
    run = RunDirectory(tmp_path)

    def said(error: OSError) -> str:
        with pytest.raises(LoupeError) as caught, run.locked():
            raise error
        with run.locked():  # the lock is free again
            return str(caught.value)

    full = OSError(errno.ENOSPC, "No space left on device")
    assert (
        said(full) == f"{tmp_path}: No space left on device. Free space on that disk, then delete {tmp_path} and "
        "train again."
    )
    run.file("recipe.yaml").write_text("")
    assert said(full).endswith(f"then resume with: loupe train --resume {tmp_path}.")
    closed = OSError(errno.EROFS, "Read-only file system", str(tmp_path / "metrics.csv"))
    assert said(closed).startswith(f"{tmp_path / 'metrics.csv'}: Read-only file system. Give write permission")
    run.file("results.json").write_text("{}")
    assert "--resume" in said(full)  # the page is missing still
    run.report.write_text("")
    assert said(full).endswith("then give the same command again.")
    with pytest.raises(FileNotFoundError), run.locked():
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_look_that_cannot_be_counted_is_none(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(rundir, "FileLock", closed)
    with pytest.raises(LoupeError, match=r"Permission denied.*test-set evaluations are recorded there"):
        record_look(tmp_path, "hash", "run")
    assert count_looks(tmp_path, "hash") == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_nothing_takes_the_place_of_a_pipe_or_a_device(tmp_path):
    """As `--to /dev/null` does; root could replace that for the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    try:
        files.write_atomic(pipe, "a,b\n")
        assert pipe.is_fifo()
        assert os.read(reader, 100) == b"a,b\n"
    finally:
        os.close(reader)
