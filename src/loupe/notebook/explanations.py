"""Displays of explanations: class activation maps over their images, and images that activate filters."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from loupe.errors import counted
from loupe.explain.explanations import Explanation
from loupe.explain.filters import AscentSettings, FilterImages
from loupe.notebook.display import Display, SelfDisplaying, display
from loupe.report import explain_page, texts

MOST_PX = 1200  # a higher display scrolls
MAPS_IN_ROW, FILTERS_IN_ROW = 3, 3  # cards beside each other


class Explanations(SelfDisplaying, list[Explanation]):
    """Explanations of images, as `run.explain` returns them.

    Attributes:
        run: name of the run.
        facts: method, layer and size of the maps, as the page shows them.
    """

    def __init__(self, explanations: Iterable[Explanation], run: str, facts: Mapping[str, str]) -> None:
        super().__init__(explanations)
        self.run = run
        self.facts = facts

    def text(self) -> str:
        lines = [f"{one.path}: {_verdict(one)}; {'; '.join(_evidence(one))}" for one in self]
        return "\n".join([f"{self.run}: class activation maps of {counted(len(self), 'image')}", *lines])

    def display(self) -> Display:
        groups = explain_page.groups(self)
        shown = {"name": self.run, "facts": self.facts, "groups": groups, "ramp": explain_page.ramp()}
        rows = sum(60 + 285 * -(-len(cards) // _in_row(cards)) for _, _, cards in groups)
        return display("cell_explained.html", shown, text=self.text(), height_px=min(MOST_PX, 190 + rows))


class FilterResponses(SelfDisplaying, list[FilterImages]):
    """Images that activate filters, as `run.filters` returns them.

    Attributes:
        run: name of the run.
        ascent: settings of the gradient ascent.
        shapes: [C, H, W] of the map of each layer.
    """

    def __init__(
        self, images: Iterable[FilterImages], run: str, ascent: AscentSettings, shapes: Mapping[str, Sequence[int]]
    ) -> None:
        super().__init__(images)
        self.run = run
        self.ascent = ascent
        self.shapes = shapes

    def text(self) -> str:
        lines = [
            f"{name}: {counted(len([*of_layer]), 'filter')} of {self.shapes[name][0]:,}"
            for name, of_layer in groupby(self, key=lambda response: response.layer)
        ]
        return "\n".join([f"{self.run}: images that activate {counted(len(self), 'filter')}", *lines])

    def display(self) -> Display:
        layers = explain_page.filter_layers(self, self.shapes)
        shown = {"name": self.run, "layers": layers, "facts": explain_page.ascent_facts(self.ascent)}
        rows = sum(85 + 210 * -(-layer["shown"] // FILTERS_IN_ROW) for layer in layers)
        return display("cell_filters.html", shown, text=self.text(), height_px=min(MOST_PX, 230 + rows))


def _in_row(cards: Sequence[explain_page.Card]) -> int:
    return MAPS_IN_ROW if len(cards[0].pictures) < MAPS_IN_ROW else MAPS_IN_ROW - 1


def _verdict(one: Explanation) -> str:
    return f"{f'{one.label} predicted as ' if one.missed else ''}{one.predicted} {texts.percent(one.probability)}"


def _evidence(one: Explanation) -> list[str]:
    return [
        f"{name}: strongest {found.region}" if found else f"{name}: {explain_page.NO_EVIDENCE}"
        for name, found in one.evidence.items()
    ]
