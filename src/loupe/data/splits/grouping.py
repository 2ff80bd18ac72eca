"""Units of a split by its setting `group`: images of one content always, and those of one group or of like looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.config.recipe import SplitSpec
from loupe.data.splits.stratify import Indices, units
from loupe.data.table import ImageTable
from loupe.errors import counted

MANY_APART = 0.1
"""Share of the near-duplicate pairs that stay apart, above which likeness is that of the classes and not of copies."""


@dataclass(frozen=True)
class Grouping:
    """Unit of each image, which is in one split and in one fold, and notes for the user.

    Attributes:
        apart: share of the near-duplicate pairs that stay apart; above MANY_APART, they are no copies.
    """

    unit_N: Indices
    notes: tuple[str, ...] = ()
    apart: float = 0.0


def grouping(
    table: ImageTable, content: Sequence[str], group: str = SplitSpec().group, *, cache: Path | None = None
) -> Grouping:
    """Units of the images of a table.

    Args:
        table: images.
        content: digest of each image.
        group: `none`, `given` or `near`, as in `SplitSpec`.
        cache: folder of the cache, for near duplicates; None for that of the user.
    """
    given: Sequence[str | None] = [None] * len(table) if group == "none" else table.groups
    unit_N = units(content, given)
    if group != "near":
        return Grouping(unit_N)
    # Imported here: a split without it needs neither pixels nor SciPy.
    from loupe.data.audit.near_pairs import near_pairs
    from loupe.data.audit.near_units import CHAIN_SHARE, near_units

    pairs = near_pairs(table, content, cache=cache)
    found = near_units(unit_N, table.labels, pairs)
    images = len(set(pairs.ends_P2.ravel().tolist()))
    notes = [
        f"{counted(len(pairs), 'near-duplicate pair')} of {counted(images, 'image')}: {found.joined:,} pairs are kept "
        "on one side of every drawn split and fold (split.group=near)."
    ]
    if found.apart:
        notes[0] = (
            f"{notes[0][:-1]}; {found.apart:,} are not, because they would join more than {CHAIN_SHARE:.0%} of a class."
        )
    if found.apart > MANY_APART * len(pairs):
        notes.append(
            f"{found.apart / len(pairs):.0%} of the pairs stay apart: images of these classes look alike without being "
            "copies, and split.group=given may suit them better. To see the pairs: loupe check DATA --near --report "
            "check.html"
        )
    return Grouping(found.unit_N, tuple(notes), found.apart / max(1, len(pairs)))
