"""Target `web`: one page, opened from disk without network, that classifies photographs in the browser.

The page is a single HTML file, because a page from disk can load neither modules nor WebAssembly from other files. The
network and its runtime (ONNX Runtime Web) are embedded as base64 of gzip. Names of classes and files are untrusted: the
template escapes all text, and the script uses it only as text. The content security policy allows the page's own
scripts and its style, named by hash, and no requests.
"""

import gzip
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from markupsafe import Markup

from loupe import __version__
from loupe.config.recipe import Preprocessing
from loupe.config.size import Size
from loupe.data.pixels.limits import MAX_PIXELS
from loupe.errors import ConfigError
from loupe.evaluate.unclassified import UNCLASSIFIED, check_threshold
from loupe.export import web_templates
from loupe.export.web_runtime import Runtime
from loupe.files import write_atomic
from loupe.report.template import Script

PAGE = "index.html"
SCRIPTS = ("elements.js", "pixels.js", "evidence.js", "intake.js", "page.js")  # in their order in the page
PART_BYTES = 3 << 20  # of an embedded file; a multiple of 3, so that the base64 of each part stands for itself


def write(
    folder: Path,
    onnx_bytes: bytes,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    title: str,
    runtime: Runtime,
    threshold: float | None = None,
    calibrated: bool = True,
) -> None:
    """Write `index.html` into a folder.

    Args:
        folder: an existing folder.
        onnx_bytes: ONNX model from `images`, uint8 [N, H, W, 3], to `probabilities` [N, K], and to `maps` [N, K, h, w]
            where it has class activation maps.
        classes: names of the K classes.
        preprocessing: preprocessing inside the model; the page shows which part of a photograph it keeps.
        title: heading of the page.
        runtime: runtime of the model.
        threshold: probability below which a photograph is `unclassified`; None for no threshold.
        calibrated: false where no temperature could be fitted.

    Raises:
        ConfigError: the model needs more than 8 bits per channel, or a class is called `unclassified`.
        OSError: the page cannot be written.
    """
    if preprocessing.range is not None:
        raise ConfigError(
            f"input.range is {list(preprocessing.range)}, of stored pixel values; a browser decodes images to 8 bits. "
            "Export to onnx instead, and decode the images outside."
        )
    check_threshold(threshold or 0.0, classes)
    facts = {
        "classes": list(classes),
        "threshold": threshold,
        "unclassified": UNCLASSIFIED,
        "mostPixels": MAX_PIXELS,
        "resize": preprocessing.resize,
        "load": _sides(preprocessing.load_size),
        "size": _sides(preprocessing.size),
    }
    text = (
        web_templates.environment()
        .get_template(PAGE)
        .render(
            title=title,
            beginning="Loading the classifier.",
            version=__version__,
            classes=classes,
            threshold=threshold,
            calibrated=calibrated,
            unclassified=UNCLASSIFIED,
            most_pixels=f"{MAX_PIXELS:,}",
            licence=web_templates.text("onnxruntime-web-licence.txt"),
            facts=facts,
            style=_hashed(web_templates.text("page.css")),
            scripts=[_hashed(web_templates.text(name)) for name in SCRIPTS],
            runtime=_hashed(runtime.script),
            data={"wasm": _parts(runtime.wasm), "model": _parts(onnx_bytes)},
        )
    )
    write_atomic(folder / PAGE, text)


def _hashed(text: str) -> Script:
    return Script(Markup(text), f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}")


def _sides(size: Size) -> dict[str, int]:
    return {"width": size.width_px, "height": size.height_px}


def _parts(data: bytes) -> list[Markup]:
    """A file as base64 of gzip, in parts of which each can be decoded for itself."""
    packed = gzip.compress(data, mtime=0)
    starts = range(0, len(packed), PART_BYTES)
    return [Markup(b64encode(packed[start : start + PART_BYTES]).decode()) for start in starts]
