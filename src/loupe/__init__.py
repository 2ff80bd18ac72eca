"""Loupe trains, compares and ships image classifiers.

    import loupe
    run = loupe.train("photos/")           # a folder of class folders
    run = loupe.load("runs/photos-photographs")
    run.predict(["new.jpg"])
    loupe.compare("photos/")               # a ladder of recipes, judged on validation images

Importing this package does not load PyTorch; whatever needs it does when it is first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from loupe.errors import (
    ConfigError,
    DataError,
    DiskError,
    DivergedError,
    ExportRefusedError,
    ImageError,
    InterruptedRunError,
    LoupeError,
    NotEnoughMemoryError,
    RunElsewhereError,
    RunInUseError,
    RunStateError,
)
from loupe.openmp import set_waiting

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loupe.comparison.compare import compare, compare_runs
    from loupe.comparison.sweep import cross_validate
    from loupe.data.pixels.decoding import DamagedImages
    from loupe.estimator.classifier import LoupeClassifier
    from loupe.export.export import export_model
    from loupe.notebook.arrays import arrays
    from loupe.notebook.augmentation import preview
    from loupe.notebook.data import show
    from loupe.notebook.layers import layers
    from loupe.recipes.variant import recipe
    from loupe.runs.run import Run
    from loupe.runs.train import load, resume
    from loupe.search.train import train
    from loupe.tuning.tune import tune

__all__ = [
    "ConfigError",
    "DamagedImages",
    "DataError",
    "DiskError",
    "DivergedError",
    "ExportRefusedError",
    "ImageError",
    "InterruptedRunError",
    "LoupeClassifier",
    "LoupeError",
    "NotEnoughMemoryError",
    "Run",
    "RunElsewhereError",
    "RunInUseError",
    "RunStateError",
    "__version__",
    "arrays",
    "compare",
    "compare_runs",
    "cross_validate",
    "export_model",
    "layers",
    "load",
    "preview",
    "recipe",
    "resume",
    "show",
    "train",
    "tune",
]

# Imported when they are first used.
MODULES = {
    "DamagedImages": "loupe.data.pixels.decoding",
    "LoupeClassifier": "loupe.estimator.classifier",
    "Run": "loupe.runs.run",
    "arrays": "loupe.notebook.arrays",
    "compare": "loupe.comparison.compare",
    "compare_runs": "loupe.comparison.compare",
    "cross_validate": "loupe.comparison.sweep",
    "export_model": "loupe.export.export",
    "layers": "loupe.notebook.layers",
    "load": "loupe.runs.train",
    "preview": "loupe.notebook.augmentation",
    "recipe": "loupe.recipes.variant",
    "resume": "loupe.runs.train",
    "show": "loupe.notebook.data",
    "train": "loupe.search.train",
    "tune": "loupe.tuning.tune",
}

set_waiting()  # before anything imports PyTorch
logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the user configures logging


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'loupe' has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
