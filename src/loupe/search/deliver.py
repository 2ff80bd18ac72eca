"""Delivery of a candidate: the files of its run become those of the run that the search is to leave."""

import os
import shutil
from pathlib import Path

from loupe.errors import DiskError, disk_error
from loupe.evaluate.results import results_file, results_of
from loupe.report import run_page
from loupe.rundir import RunDirectory
from loupe.runs.run import Run

STAGED = ".delivery"  # files of a run that replace those of the one before
READY = "ready"  # file that says that all of them are there
LEFT_BEHIND = {"checkpoints", ".lock"}
LAST = ("recipe.yaml", "results.json", "report.html")


def deliver(run: Run, folder: Path, *, device: str, quiet: bool, page: bool = True) -> Run:
    """Make the run in `folder` this one; the files are linked or copied, and the run of the candidate stays.

    All files are prepared first. Then they replace the earlier ones within milliseconds; a process that ends between
    two of them is followed by `recover`.

    Args:
        page: write the page of the run; False: remove that of the run before, as the end of a search writes its own.

    Raises:
        DiskError: the disk is full, or cannot be written.
    """
    staged = folder / STAGED
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for source in run.path.iterdir():
            if source.name not in LEFT_BEHIND:
                _copy(source, staged / source.name)
        results = results_of(run.directory)
        assert results is not None
        named = results.model_copy(update={"name": folder.name})
        named.write(results_file(RunDirectory(staged)))
        (staged / READY).touch()
        recover(folder)
        if page:
            run_page.write_page(folder)
        else:
            (folder / "report.html").unlink(missing_ok=True)
    except OSError as error:
        if told := disk_error(error, folder, "give the same command again"):
            raise told from error
        raise DiskError(f"{folder}: the run cannot be written ({error.strerror or error}).") from error
    return Run(RunDirectory(folder), device=device, quiet=quiet)


def recover(folder: Path) -> None:
    """Finish a delivery whose files were all prepared; remove one whose files were not."""
    staged = folder / STAGED
    if (staged / READY).is_file():
        ready = [path for path in staged.iterdir() if path.name not in (READY, *LAST)]
        for source in [*sorted(ready), *(staged / name for name in LAST if (staged / name).exists())]:
            target = folder / source.name
            if source.is_dir() and target.is_dir():
                old = folder / f"{STAGED}-old"
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
                source.rename(target)
                shutil.rmtree(old, ignore_errors=True)
            else:
                source.replace(target)
    shutil.rmtree(staged, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder; files are linked where the disk can, as Loupe replaces files and never changes them."""
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            _copy(path, target / path.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
