"""From what a page shows to its HTML: one way of rendering for every page, so that all escape and look alike.

Names of classes, files and experiments come from other people. Every text is escaped by the template, and no text
reaches a place where it could be anything but text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loupe.report import texts


def render(name: str, shown: Mapping[str, Any]) -> str:
    """The template of that name as one HTML text, with the style of all pages in it and `shown` as its values."""
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
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
        "several": texts.several,
        "short": texts.short,
        "drawn": Markup,  # only for what figures.py draws
    }
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(name).render(style=style, **shown)
