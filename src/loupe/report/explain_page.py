"""Pages of `loupe explain`: class activation maps over their images, and images that activate filters.

Each page is one HTML file that needs no network, script or server.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from loupe import __version__
from loupe.explain.explanations import Explanation
from loupe.explain.feature_maps import MapLayer
from loupe.explain.filters import REGULARISATIONS, AscentSettings, FilterImages
from loupe.files import write_atomic
from loupe.report import texts
from loupe.report.embed import LARGEST_PX, LOSSLESS_PX, source_of_pixels
from loupe.report.template import render

COLORS = "plasma"  # monotonic in lightness, also for colour-blind readers and in grey print
STRENGTH = 0.8  # opacity of the strongest evidence
DIMMED = 0.75  # brightness of the picture below, so that its light areas do not look like evidence
METHOD_NAMES = {"grad-cam": "Grad-CAM", "hires-cam": "HiResCAM"}
NO_EVIDENCE = "no positive evidence"
LONG_NAMES = {"none": "no regularisation", "L2": "L2", "Gaussian blur": "Gaussian blur"}
SHORT_NAMES = {"none": "none", "L2": "L2", "Gaussian blur": "blur"}


@dataclass(frozen=True)
class Shown:
    """One picture of a page. `source` is a data URI; texts are hostile until escaped."""

    source: str
    alt: str
    caption: str
    note: str = ""
    small: bool = False  # its pixels are shown unsmoothed


@dataclass(frozen=True)
class Card:
    """One image with its maps."""

    path: str
    truth: str | None
    predicted: str
    probability: float
    missed: bool
    pictures: Sequence[Shown]


def facts_of_maps(
    layer: MapLayer, method: str, temperature: float, explanations: Sequence[Explanation]
) -> dict[str, str]:
    """Facts beside the headline: method, layer, and the number of misclassified images where labels are known."""
    height, width = layer.shape[1:]
    facts = {"Method": METHOD_NAMES[method], "Layer": layer.name, "Feature map": f"{height} × {width}"}
    if temperature != 1:
        facts["Calibrated by"] = f"temperature {temperature:.3g}"
    if any(one.label is not None for one in explanations):
        facts["Misclassified"] = f"{sum(one.missed for one in explanations):,}"
    return facts


def groups(explanations: Iterable[Explanation]) -> list[tuple[str, str, list[Card]]]:
    """Anchor, heading and cards of each group that is not empty: misclassified, correct, without a label."""
    cards = [_card(explanation) for explanation in explanations]
    missed = [card for card in cards if card.missed]
    right = [card for card in cards if not card.missed and card.truth is not None]
    unknown = [card for card in cards if card.truth is None]
    named = (("missed", "Misclassified", missed), ("right", "Correct", right), ("images", "Images", unknown))
    return [group for group in named if group[2]]


def ramp() -> list[str]:
    """Colours of the legend, from no evidence to most."""
    return [matplotlib.colors.to_hex(color / 255) for color in _colored(np.full(9, 128.0), np.linspace(0, 1, 9))]


def write_maps(path: Path, explanations: Iterable[Explanation], facts: Mapping[str, str], run: str) -> None:
    """Write the page of class activation maps. `facts` are shown beside the headline, such as the layer."""
    grouped = groups(explanations)
    shown = {
        "run": run,
        "version": __version__,
        "images": sum(len(cards) for _, _, cards in grouped),
        "facts": facts,
        "groups": grouped,
        "ramp": ramp(),
    }
    write_atomic(path, render("explain.html", shown))


def overlay(pixels: np.ndarray, map_HW: np.ndarray) -> np.ndarray:
    """Overlay of the map's colours on the picture in grey; uint8 [H, W, 3].

    Small pictures are enlarged, so that the map keeps its resolution.
    """
    factor = max(1, LARGEST_PX // max(pixels.shape[:2]))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    grey_HW = np.asarray(Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.NEAREST), np.float32)
    fine_HW = np.asarray(Image.fromarray(map_HW.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    return _colored(grey_HW, fine_HW).round().astype(np.uint8)


def _colored(grey: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Colours [..., 3] from 0 to 255, from grey levels and evidence from 0 to 1, both [...]."""
    color = matplotlib.colormaps[COLORS](evidence)[..., :3] * 255
    cover = STRENGTH * evidence.clip(0, 1)[..., None] ** 0.7
    mixed: np.ndarray = (1 - cover) * DIMMED * grey[..., None] + cover * color
    return mixed


def write_filters(
    path: Path, responses: Iterable[FilterImages], ascent: AscentSettings, shapes: Mapping[str, Sequence[int]], run: str
) -> None:
    """Write the page of images that activate filters; `shapes` has the [C, H, W] of each layer's map."""
    layers = filter_layers(responses, shapes)
    shown = {"run": run, "version": __version__, "layers": layers, "ascent": ascent, "facts": ascent_facts(ascent)}
    write_atomic(path, render("filters.html", shown))


def filter_layers(responses: Iterable[FilterImages], shapes: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Layers with the pictures of their filters, in order."""
    layers: list[dict[str, Any]] = []
    for name, of_layer in groupby(responses, key=lambda response: response.layer):
        filters = [_filter(response) for response in of_layer]
        anchor, channels = f"layer{len(layers) + 1}", shapes[name][0]
        layers.append({"name": name, "anchor": anchor, "channels": channels, "shown": len(filters), "filters": filters})
    return layers


def _card(explanation: Explanation) -> Card:
    seen = _shown(explanation.pixels, explanation.label or "the image", "input")
    maps = [_map(explanation, name) for name in explanation.maps]
    return Card(
        explanation.path,
        explanation.label,
        explanation.predicted,
        explanation.probability,
        explanation.missed,
        [seen, *maps],
    )


def _map(explanation: Explanation, name: str) -> Shown:
    found = explanation.evidence[name]
    where = f"strongest {found.region}; half of it in {texts.percent(found.half, 0)}" if found else NO_EVIDENCE
    alt = f"evidence for {name}: {where} of the picture" if found else f"{name}: {where}"
    return _shown(overlay(explanation.pixels, explanation.maps[name]), alt, name, where)


def _filter(response: FilterImages) -> dict[str, Any]:
    pictures = [
        _shown(pixels, f"filter {response.filter}, {LONG_NAMES[kind]}", SHORT_NAMES[kind], f"{activation:.3g}")
        for kind, pixels, activation in zip(REGULARISATIONS, response.pixels_RHWC, response.activation_R, strict=True)
    ]
    return {"number": response.filter, "noise": f"{response.noise_activation:.3g}", "pictures": pictures}


def ascent_facts(ascent: AscentSettings) -> dict[str, str]:
    """Settings of the gradient ascent, as a page shows them."""
    return {
        "Steps": f"{ascent.steps}",
        "Rate": f"{ascent.rate:g}",
        "L2 decay": f"{ascent.l2_decay:g}",
        "Blur": f"{ascent.blur_px:g} px, every {ascent.blur_steps} steps",
        "Start": f"grey, noise {ascent.noise:g}",
        "Seed": f"{ascent.seed}",
    }


def _shown(pixels: np.ndarray, alt: str, caption: str, note: str = "") -> Shown:
    return Shown(source_of_pixels(pixels), alt, caption, note, small=max(pixels.shape) <= LOSSLESS_PX)
