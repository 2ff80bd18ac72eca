"""Templates, scripts and styles of pages that classify photographs: the exported page, and that of the server."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loupe.errors import counted

FOLDER = Path(__file__).parent / "web_page"


def environment(*folders: Path) -> Environment:
    """Environment of templates that escapes all text; `folders` come before the one of this package."""
    made = Environment(
        loader=FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["counted"] = counted
    return made


def text(file: str) -> str:
    """Content of a file of the folder, which is Loupe's own."""
    return (FOLDER / file).read_text(encoding="utf-8")
