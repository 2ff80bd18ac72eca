"""From what a page shows to its HTML: one way of rendering for every page, so that all escape and look alike.

Names of classes, files and experiments come from other people. Every text is escaped by the template, and no text
reaches a place where it could be anything but text. The page's own content security policy forbids requests, and every
script but those of ours that stand in it, which it names by their hashes.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loupe.errors import counted
from loupe.report import texts

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Script:
    """A script as it stands in a page, and the hash by which the page's policy allows it (CSP Level 3, 2.3.1)."""

    text: Markup
    sha256: str


def render(name: str, shown: Mapping[str, Any], *, styles: Sequence[str] = (), scripts: Sequence[str] = ()) -> str:
    """The template of that name as one HTML text, with `shown` as its values.

    Args:
        name: of the template, in the folder of templates, as are the others.
        styles: what the page has beside `report.css`, the style of all pages.
        scripts: what runs at the page's end. A page must be whole without them.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": texts.count,
        "percent": texts.percent,
        "number": texts.number,
        "duration": texts.duration,
        "spent": texts.spent,
        "counted": counted,
        "short": texts.short,
        "drawn": Markup,  # only for what figures.py draws
    }
    style = Markup("\n").join(_own(file) for file in ("report.css", *styles))
    return environment.get_template(name).render(style=style, scripts=[_script(file) for file in scripts], **shown)


def _own(file: str) -> Markup:
    """A file of ours from among the templates, which needs no escaping."""
    return Markup((FOLDER / file).read_text(encoding="utf-8"))


def _script(file: str) -> Script:
    text = _own(file)
    return Script(text, f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}")
