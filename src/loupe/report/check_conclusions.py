"""Conclusions of `loupe check`: what prevents training, how far results may be wrong, and what too few images carry.

Each is a bound that follows from the counts: m copies among n test images raise the accuracy by at most m / n; n images
without an error show an accuracy above 0.05 ** (1 / n), with 95 % confidence (Clopper and Pearson 1934, one-sided).
"""

import math
from collections import Counter
from dataclasses import dataclass

from loupe.config.recipe import SplitSpec
from loupe.data.audit.check_report import NO_LABEL, NO_SPLIT, CheckReport
from loupe.errors import counted, enumerated
from loupe.evaluate.chance import lowest_accuracy

WANTED = 0.9
"""Accuracy that images without an error should be able to show."""
MOST_NAMES = 5
SPLITS = {"val": "validation", "test": "test"}
EARLIER = {"val": {"train"}, "test": {"train", "val"}}


@dataclass(frozen=True)
class Conclusions:
    """Conclusions of a check, as sentences.

    Attributes:
        problems: what prevents training, or makes results wrong.
        cautions: what these images cannot show.
    """

    problems: tuple[str, ...]
    cautions: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        return [*(self.problems or ("No problem that prevents training.",)), *self.cautions]


def conclusions(report: CheckReport) -> Conclusions:
    """Conclusions from the findings and the counts of a check."""
    pool = _pool(report)
    unfit = _unfit(report, pool)
    problems = [*unfit, *_damage(report), *_leaks(report)]
    return Conclusions(tuple(problems), () if unfit else tuple(_cautions(report, pool)))


def _pool(report: CheckReport) -> Counter[str]:
    """Number of labelled images of each class that may be trained on: in train or in no split."""
    pool: Counter[str] = Counter()
    for split in ("train", NO_SPLIT):
        pool.update(report.counts.get(split, {}))
    pool.pop(NO_LABEL, None)
    return +pool if 0 in pool.values() else pool


def _labelled(report: CheckReport, split: str) -> int:
    return sum(images for name, images in report.counts.get(split, {}).items() if name != NO_LABEL)


def _unfit(report: CheckReport, pool: Counter[str]) -> list[str]:
    if not pool:
        return ["No image for training has a label. These images can only be classified, or evaluated."]
    if len(pool) == 1:
        are = "All {} are" if pool.total() > 1 else "The {} is"
        images = are.format(counted(pool.total(), "training image"))
        return [f"{images} of {next(iter(pool))}. Training needs two classes."]
    return []


def _damage(report: CheckReport) -> list[str]:
    found = []
    if report.damaged:
        found.append(f"Training stops at {counted(len(report.damaged), 'damaged image')}, unless with --skip-damaged.")
    if report.lost:
        noun = "class has" if len(report.lost) == 1 else "classes have"
        found.append(f"{len(report.lost):,} {noun} many images that cannot be read: results would be of the others.")
    if report.blank:
        found.append(f"{counted(len(report.blank), 'image')} would be blank: nothing can be learned from such images.")
    return found


def _leaks(report: CheckReport) -> list[str]:
    """Bounds on accuracies that are too high, and the number of images with more than one label."""
    found = []
    for split, name in SPLITS.items():
        images = _labelled(report, split)
        leaked = sum(
            place == split and label is not None
            for copies in report.leaks
            if EARLIER[split].intersection(copies.splits)
            for place, label in zip(copies.splits, copies.labels, strict=True)
        )
        if leaked:
            verb = "is" if leaked == 1 else "are"
            found.append(
                f"{leaked:,} of {counted(images, f'{name} image')} {verb} in an earlier split too: the {name} accuracy "
                f"may be up to {100 * leaked / images:.3g} points too high."
            )
    if report.split_groups:
        groups = counted(len(report.split_groups), "group is", "groups are")
        found.append(f"{groups} in more than one split: results may be too high.")
    if report.conflicts:
        images = sum(len(copies.paths) for copies in report.conflicts)
        found.append(f"{counted(images, 'file')} with equal content have different labels: not all of them are right.")
    return found


def _cautions(report: CheckReport, pool: Counter[str]) -> list[str]:
    found = [] if NO_SPLIT in report.counts else _absent(report, "train", "they cannot be learned")
    for split in SPLITS:
        if _labelled(report, split):
            found += _absent(report, split, "results say nothing about them")
    scarce = [name for name, images in pool.items() if images < 2]
    if scarce and not any(_labelled(report, split) for split in SPLITS):
        noun = "class with 1 image" if len(scarce) == 1 else "classes with 1 image each"
        found.append(
            f"{counted(len(scarce), noun, noun)} ({enumerated(scarce, most=MOST_NAMES)}): trained on, never evaluated."
        )
    return [*found, *_few(report, pool)]


def _absent(report: CheckReport, split: str, then: str) -> list[str]:
    counts = report.counts.get(split, {})
    absent = [name for name, images in counts.items() if not images and name != NO_LABEL]
    if not absent or len(absent) == len(counts):
        return []
    return [f"The split {split} has no images of {enumerated(absent, most=MOST_NAMES)}: {then}."]


def _few(report: CheckReport, pool: Counter[str]) -> list[str]:
    """Lowest accuracy that the images for evaluation can show, where that is below `WANTED`."""
    split = next((split for split in reversed(SPLITS) if _labelled(report, split)), None)
    if split:
        images = _labelled(report, split)
        what = counted(images, f"{SPLITS[split]} image")
    else:
        share = SplitSpec().test
        images = math.ceil(share * pool.total() - 1e-9)
        what = f"{counted(images, 'test image')} ({100 * share:g} % of {pool.total():,}, the default)"
    if not images or lowest_accuracy(images) >= WANTED:
        return []
    enough, lowest = math.ceil(math.log(0.05) / math.log(WANTED)), math.floor(1000 * lowest_accuracy(images)) / 1000
    verb = "shows" if images == 1 else "show"
    return [
        f"{what} without an error {verb} an accuracy above {lowest:.3f} (95 % confidence); {enough} show {WANTED:g}."
    ]
