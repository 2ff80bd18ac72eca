"""Loupe trains, compares and ships image classifiers.

    import loupe
    run = loupe.train("photos/")           # a folder of class folders
    run = loupe.load("runs/photos-photographs")
    run.predict(["new.jpg"])
    loupe.compare("photos/")               # a ladder of recipes, judged on validation images

Importing this package does not load PyTorch; whatever needs it does when it is first used.
"""

from typing import TYPE_CHECKING, Any

from loupe.errors import ImageError, LoupeError

if TYPE_CHECKING:
    from loupe.comparison import compare
    from loupe.run import load, resume, train
    from loupe.sweep import cross_validate
    from loupe.trained import Run

__all__ = ["ImageError", "LoupeError", "Run", "compare", "cross_validate", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in {"load", "resume", "train"}:
        from loupe import run

        return getattr(run, name)
    if name == "compare":
        from loupe.comparison import compare

        return compare
    if name == "cross_validate":
        from loupe.sweep import cross_validate

        return cross_validate
    if name == "Run":
        from loupe.trained import Run

        return Run
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")
