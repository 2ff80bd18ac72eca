"""Rendering of all pages from templates, with the same escaping and style.

Names of classes, files and experiments are untrusted. The templates escape all text, and use it only as text. The
content security policy of a page forbids requests and all scripts except Loupe's own, which it names by hash.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from loupe import log
from loupe.errors import counted
from loupe.report import texts

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Script:
    """Script in a page, and the hash by which the policy of the page allows it (CSP Level 3, 2.3.1)."""

    text: Markup
    sha256: str


def render(name: str, shown: Mapping[str, Any], *, styles: Sequence[str] = (), scripts: Sequence[str] = ()) -> str:
    """Render a template as HTML, with `shown` as its values.

    Args:
        name: template in the folder of templates.
        styles: style sheets beside `report.css`, which all pages have.
        scripts: scripts at the end of the page. A page must be readable without them.
    """
    style = Markup("\n").join(_own(file) for file in ("report.css", *styles))
    return _environment().get_template(name).render(style=style, scripts=[_script(file) for file in scripts], **shown)


def frame(page: str, height_px: int) -> str:
    """Frame of a page for a notebook cell, in which nothing can run."""
    start = f'<iframe title="Loupe" sandbox srcdoc="{escape(page)}" width="100%" height="{height_px}"'
    return f'{start} style="border: 0"></iframe>'


@cache
def _environment() -> Environment:
    """Environment of all templates, so that a process compiles each once."""
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
        "rounded": log.rounded,
        "solved": texts.solved,
        "duration": texts.duration,
        "size": log.size_text,
        "spent": texts.spent,
        "started": texts.started,
        "folded": texts.folded,
        "refitted": texts.refitted,
        "counted": counted,
        "short": texts.short,
        "drawn": Markup,  # only for SVG from figures.py
    }
    return environment


def _own(file: str) -> Markup:
    """Trusted file of the folder of templates, not escaped."""
    return Markup((FOLDER / file).read_text(encoding="utf-8"))


def _script(file: str) -> Script:
    text = _own(file)
    return Script(text, f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}")
