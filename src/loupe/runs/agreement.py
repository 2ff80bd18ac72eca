"""Check that the ranks of a training have the same images, recipe and versions, before they train one network."""

import hashlib
from collections.abc import Iterable, Sequence

import torch

from loupe import __version__
from loupe.config.recipe import Recipe
from loupe.data.pixels.prepare import Images
from loupe.errors import counted, enumerated
from loupe.ranks import Ranks, RanksDifferError

MOST_RANKS = 8  # named in a message


def check_agreement(joined: Ranks, recipe: Recipe, images: Images) -> None:
    """Check that all ranks train the same: row i of the table is the same image with the same label on each.

    Raises:
        RanksDifferError: some have other images, labels, classes, settings or versions than rank 0.
    """
    if joined.alone:
        return
    facts = joined.gather(
        {
            "versions of Loupe": __version__,
            "versions of PyTorch": torch.__version__,
            "recipes": _digest([recipe.to_yaml()]),
            "classes": ", ".join(images.table.classes),
            "numbers of images": counted(len(images.content), "image"),
            "images": _digest(images.content),
            "labels": hashlib.sha256(images.table.labels.tobytes()).hexdigest(),
        }
    )
    for name in facts[0]:
        compare(name, [fact[name] for fact in facts])


def compare(name: str, values: Sequence[str]) -> None:
    """Check that every rank has the value of rank 0.

    Raises:
        RanksDifferError: some have another.
    """
    others = [rank for rank, value in enumerate(values) if value != values[0]]
    if not others:
        return
    shown = [str(rank + 1) for rank in others]
    who = f"{'process' if len(others) == 1 else 'processes'} {enumerated(shown, most=MOST_RANKS)} of {len(values)}"
    other = values[others[0]]
    told = "" if _is_digest(other) else f" ({other}, where process 1 has {values[0]})"
    raise RanksDifferError(
        f"{who} {'has' if len(others) == 1 else 'have'} other {name} than process 1{told}. Give each machine the same "
        "images, files and versions, then start again."
    )


def _digest(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    found = hashlib.sha256()
    for text in texts:
        found.update(f"{text}\n".encode())
    return found.hexdigest()


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
