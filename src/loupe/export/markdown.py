"""Untrusted text in Markdown: names as code, sentences and whole files, none of which can end the block around it."""

import re

from loupe.log import printable

_SPECIAL = re.compile(r"[\\`*_\[\]<>&|~$#]|:(?=//)")
_BACKTICKS = re.compile(r"`+")


def one_line(text: str) -> str:
    """The text on one line, with every character escaped that is not printable."""
    return printable(" ".join(text.split()))


def plain(text: str) -> str:
    """A sentence, or the cell of a table, that is shown as it is."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", one_line(text))


def code(text: str) -> str:
    """A name in the type of code, also in the cell of a table."""
    shown = one_line(text)
    if shown and not set(shown) & set("`|\\"):
        return f"`{shown}`"
    # In a table, a bar ends a cell even within backticks.
    return f"<code>{plain(shown)}</code>" if shown else "(empty)"


def fenced(text: str, language: str) -> str:
    """A block of code, within a longer fence than any in the text."""
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
