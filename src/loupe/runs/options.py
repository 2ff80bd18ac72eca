"""Options of a run that are not part of its recipe."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """Options of runs, independent of what they train.

    Attributes:
        output: folder of the runs.
        device: auto, cpu, cuda, cuda:N or mps.
        skip_damaged: leave damaged images out, instead of stopping.
        quiet: print nothing.
    """

    output: Path
    device: str = "auto"
    skip_damaged: bool = False
    quiet: bool = False
