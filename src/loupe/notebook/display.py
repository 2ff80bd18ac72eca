"""Display of a notebook cell: a page in a frame, its text elsewhere, and a file on request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loupe.errors import DiskError
from loupe.files import write_atomic
from loupe.report.template import frame, render

STYLES = ("cell.css",)


@dataclass(frozen=True, repr=False)
class Display:
    """Page that a notebook shows as the result of a cell. It needs no network and contains no script.

    Attributes:
        text: the same in words, which a terminal shows.
        html: the page.
        height_px: height of its frame in a notebook; longer pages scroll.
    """

    text: str
    html: str = field(compare=False)
    height_px: int = field(compare=False)

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return frame(self.html, self.height_px)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, and return its path.

        Raises:
            DiskError: the file cannot be written.
        """
        target = Path(path)
        try:
            write_atomic(target, self.html)
        except OSError as error:
            raise DiskError(
                f"{target}: the page cannot be written: {error.strerror or error}. Give the path of a file in a folder "
                "that exists and can be written."
            ) from None
        return target


class SelfDisplaying:
    """Base of results that a notebook shows as a page, and `print` in words: lists and dictionaries of values.

    Nothing is drawn before it is shown.
    """

    def text(self) -> str:
        """The same in words, which a terminal shows."""
        raise NotImplementedError

    def display(self) -> Display:
        """Page of the values."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.text()

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return self.display()._repr_html_()

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, and return its path.

        Raises:
            DiskError: the file cannot be written.
        """
        return self.display().save(path)


def display(
    template: str, shown: Mapping[str, Any], *, text: str, height_px: float, styles: Sequence[str] = ()
) -> Display:
    """Display of a rendered template of cells, `cell_….html`."""
    return Display(text, render(template, shown, styles=(*styles, *STYLES)), round(height_px))
