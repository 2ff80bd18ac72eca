"""Accuracy by group: by patient, camera, place, or whatever the images' `group` says, to see where a network fails."""

from collections.abc import Sequence
from typing import Any

from loupe.evaluate.metrics import proportion
from loupe.evaluate.predictions import UNKNOWN, Predictions

MOST_GROUPS = 50  # beyond, nobody looks at each
FEWEST_IMAGES = 5  # below, an interval spans nearly everything


def by_group(predictions: Predictions, groups: Sequence[str | None]) -> dict[str, Any]:
    """Accuracy, with Wilson's interval, of the labelled images of each group, in the order of the groups' names.

    `groups` names the group of each image, None where it has none. `rows` is null, with the reason, where there are no
    groups, or too many to be looked at one by one. Groups of too few images are left out, and counted.
    """
    members: dict[str, list[int]] = {}
    for row, (name, label) in enumerate(zip(groups, predictions.label, strict=True)):
        if name is not None and label != UNKNOWN:
            members.setdefault(name, []).append(row)
    if not members:
        return {"rows": None, "why": "the images have no groups"}
    if len(members) > MOST_GROUPS:
        return {
            "rows": None,
            "why": f"{len(members):,} groups are too many to look at each; {MOST_GROUPS} are the most",
        }
    right_N = predictions.predicted == predictions.label
    large = {name: rows for name, rows in sorted(members.items()) if len(rows) >= FEWEST_IMAGES}
    shown = [
        {"group": name, "images": len(rows), "accuracy": proportion(int(right_N[rows].sum()), len(rows), "")}
        for name, rows in large.items()
    ]
    images = sum(map(len, members.values())) - sum(map(len, large.values()))
    return {"rows": shown, "left_out": {"groups": len(members) - len(large), "images": images}}
