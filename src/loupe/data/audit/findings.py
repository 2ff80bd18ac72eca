"""Findings of a check by kind, each a title with the remedy and a line for each case."""

from collections.abc import Sequence

from loupe.data.audit.check_report import LONG_ASPECT, SMALL_FRACTION, CheckReport, Copies
from loupe.data.keyed_order import chosen
from loupe.data.unread import LOST_FRACTION
from loupe.errors import counted

MOST_COPIES = 100
"""Number of copies of one image that a line names; all of them are in the JSON."""
USED_LEVELS = 128
"""Limit for unused bits: grey levels, of 256, that the values of images of more than 8 bits reach."""
IMBALANCE = 3.0
"""Limit for unbalanced classes: ratio of the sizes of the largest and the smallest class."""
FEWEST_TO_WEIGHT = 10
"""Images of a class, below which a larger weight repeats few images and tells little about others."""


def findings(report: CheckReport) -> list[tuple[str, list[str]]]:
    """Findings by kind: a title with the remedy, and one line for each case."""
    copied = [_describe(copies) for copies in report.copies if not (copies.leaks or copies.conflicts)]
    leaking = [_describe(copies) for copies in report.leaks]
    conflicting = [_describe(copies) for copies in report.conflicts]
    unread = [f"{path} ({group.format})" for group in report.unread for path in group.paths]
    unbalanced = _unbalanced(report)
    found = [
        ("unreadable here: convert them, or install what reads them", unread),
        (f"incomplete: a class of which more than {LOST_FRACTION:.0%} of the images cannot be read", list(report.lost)),
        ("damaged: repair or remove them, or train with --skip-damaged", [str(error) for error in report.damaged]),
        ("the same image in more than one split: remove it from all but one", leaking),
        ("the same image with different labels: correct or remove it", conflicting),
        ("the same group in more than one split: keep it on one side", list(report.split_groups)),
        ("copies within a split: training counts them as often as they are there", copied),
        (
            "blank: the upper 8 bits, which are kept, are all equal; try --set input.range=used",
            list(report.blank),
        ),
        ("with unused bits: --set input.range=used keeps all grey levels", _unused_bits(report)),
        ("of one colour: only this colour can be learned from them", list(report.one_colour)),
        (f"small: the shorter side is below {SMALL_FRACTION:g} times the median", list(report.small)),
        (
            f"long: one side is more than {LONG_ASPECT:g} times the other; resize mode pad keeps all of it",
            list(report.long),
        ),
        (
            "groups of classes that differ only in form, case, spaces or number format: give each one name",
            [" = ".join(map(repr, names)) for names in report.similar_classes],
        ),
        (f"ratio of class sizes above {IMBALANCE:g} to 1: {_remedy(report) if unbalanced else ''}", unbalanced),
    ]
    return [(f"{len(lines):,} {title}", lines) for title, lines in found if lines]


def listed(lines: Sequence[str], most: int) -> list[str]:
    """Lines of a finding for a page, in their order: where there are more, cases of all classes and not the first."""
    return chosen(lines, most, key="check")


def _unused_bits(report: CheckReport) -> list[str]:
    return [
        f"{counted(depth.images, 'image')} of {depth.bits} bits with values {depth.low:,} to {depth.high:,} of "
        f"{2**depth.bits - 1:,}: {depth.grey_levels} of 256 grey levels remain"
        for depth in report.depths
        if depth.grey_levels <= USED_LEVELS
    ]


def _describe(copies: Copies) -> str:
    """Line of the copies, of very many the first."""
    rows = zip(copies.paths[:MOST_COPIES], copies.splits, copies.labels, strict=False)
    more = len(copies.paths) - MOST_COPIES
    text = " = ".join(f"{path} ({', '.join(filter(None, (split, label)))})" for path, split, label in rows)
    return f"{text} and {more:,} more" if more > 0 else text


def _remedy(report: CheckReport) -> str:
    """Remedy for classes of unequal size: weights, unless the smallest class is too small for them."""
    if min(report.class_sizes.values(), default=0) >= FEWEST_TO_WEIGHT:
        return "consider class_weights balanced"
    return f"add images; weights cannot replace them in a class with fewer than {FEWEST_TO_WEIGHT}"


def _unbalanced(report: CheckReport) -> list[str]:
    sizes = report.class_sizes
    if len(sizes) < 2 or max(sizes.values()) <= IMBALANCE * min(sizes.values()):
        return []
    least, most = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    return [f"{most} has {counted(sizes[most], 'image')}, {least} has {sizes[least]:,}"]
