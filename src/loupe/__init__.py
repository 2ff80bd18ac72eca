"""Loupe trains, compares and ships image classifiers.

    import loupe
    run = loupe.train("photos/")           # a folder of class folders
    run = loupe.load("runs/photos-photographs")
    run.predict(["new.jpg"])
    loupe.compare("photos/")               # a ladder of recipes, judged on validation images

Importing this package does not load PyTorch; whatever needs it does when it is first used.
"""

import logging
from typing import TYPE_CHECKING, Any

from loupe.errors import ImageError, LoupeError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loupe.comparison.compare import compare
    from loupe.comparison.sweep import cross_validate
    from loupe.runs.run import Run
    from loupe.runs.train import load, resume, train

__all__ = ["ImageError", "LoupeError", "Run", "__version__", "compare", "cross_validate", "load", "resume", "train"]


logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the user configures logging


def __getattr__(name: str) -> Any:
    if name in {"load", "resume", "train"}:
        from loupe.runs import train

        return getattr(train, name)
    if name == "compare":
        from loupe.comparison.compare import compare

        return compare
    if name == "cross_validate":
        from loupe.comparison.sweep import cross_validate

        return cross_validate
    if name == "Run":
        from loupe.runs.run import Run

        return Run
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")
