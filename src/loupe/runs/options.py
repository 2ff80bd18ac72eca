"""Options of a run that are no part of its recipe."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """How runs are made, whatever they train.

    Attributes:
        output: the folder that holds the runs.
        device: auto, cpu, cuda, cuda:N or mps.
        skip_damaged: leave damaged images out in place of stopping.
        quiet: show nothing on the terminal.
    """

    output: Path
    device: str = "auto"
    skip_damaged: bool = False
    quiet: bool = False
