"""Gate of the target `web`: the answers of a page in Chromium, opened from disk with the network cut."""

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from loupe.data.formats import sniff
from loupe.errors import ConfigError, ExportRefusedError, RunStateError, counted
from loupe.export.parity import EngineParity, Reference
from loupe.export.samples import Samples
from loupe.log import logger

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
ANSWERS = "#answers > li"
BATCH_IMAGES = 20
MOST_IMAGES = 200
LARGEST_DIFFERENCE = 1e-3
READ_BY_BROWSERS = frozenset({"JPEG", "PNG", "WebP", "GIF", "BMP", "AVIF"})
FIRST_ANSWER_SECONDS = 3.0
_NETWORK = re.compile(r"^(?!file:|blob:)")


@dataclass(frozen=True)
class BrowserAnswers:
    """Answers of a page to N images.

    Attributes:
        probability_NK: probability of each class; NaN for a refused image.
        refused: reason for each refused image, by path.
        first_seconds: time from the start of opening the page to the first answer.
        browser: name and version of the browser.
    """

    probability_NK: npt.NDArray[np.float32]
    refused: dict[Path, str] = field(default_factory=dict)
    first_seconds: float = 0.0
    browser: str = ""

    def misses(self, expected_NK: npt.NDArray[np.floating]) -> dict[str, float]:
        """Number of images whose best class differs from the expected, and the largest difference in a probability.

        A refused image counts as a different class.
        """
        read_N = ~np.isnan(self.probability_NK).any(axis=1)
        found_NK, wanted_NK = self.probability_NK[read_N], expected_NK[read_N]
        other = int((found_NK.argmax(axis=1) != wanted_NK.argmax(axis=1)).sum() + (~read_N).sum())
        return {"top1": other, "probability": float(np.abs(found_NK - wanted_NK).max(initial=0.0))}


def has_browser() -> bool:
    """True where Playwright and a Chromium are installed."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return False
    return _executable() is not None


def answers(page: Path, images: Sequence[Path], *, timeout_seconds: float = 120.0) -> BrowserAnswers:
    """Answers of a page that `web.write` wrote, to image files.

    Args:
        page: `index.html`.
        images: image files.
        timeout_seconds: longest time for the answers to `BATCH_IMAGES` images.

    Raises:
        ConfigError: Playwright or Chromium is not installed.
        RunStateError: the page asked for the network, reported an error or gave no answers.
    """
    found: list[dict[str, object]] = []
    with opened(timeout_seconds) as (context, wrong):
        view = context.new_page()
        began = time.perf_counter()
        view.goto(page.resolve().as_uri(), wait_until="commit")
        found += _batch(view, images[:1])
        first_seconds = time.perf_counter() - began
        for start in range(1, len(images), BATCH_IMAGES):
            view.locator("#clear").click()
            found += _batch(view, images[start : start + BATCH_IMAGES])
        browser = context.browser.version if context.browser else ""
    if wrong:
        raise RunStateError(f"{page}: the page in Chromium: {wrong[0]}")
    refused = {path: str(one["refused"]) for path, one in zip(images, found, strict=True) if "refused" in one}
    classes = max((len(values) for one in found if isinstance(values := one.get("probabilities"), list)), default=0)
    rows = [one.get("probabilities", [np.nan] * classes) for one in found]
    return BrowserAnswers(np.array(rows, np.float32), refused, first_seconds, f"Chromium {browser}")


def compare_page(page: Path, samples: Samples, reference: Reference, *, most: int = MOST_IMAGES) -> EngineParity:
    """Compare a page with the run that it comes from, from the files on.

    Args:
        page: `index.html`.
        samples: images, of which up to `most` are taken evenly; files that browsers do not read are left out.
        reference: the run's own probabilities.
        most: largest number of images.

    Raises:
        ExportRefusedError: a class differs, a probability differs by more than `LARGEST_DIFFERENCE`, the page refuses
            an image of a format that browsers read, or it reads none of the images.
        ConfigError, RunStateError: as for `answers`.
    """
    places = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).astype(int))
    taken = replace(samples, row_N=[samples.row_N[place] for place in places])
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{row}" for row in taken.row_N]
        for path, row in zip(paths, taken.row_N, strict=True):
            path.write_bytes(taken.table.encoded(row))
        found = answers(page, paths)
    expected_NK = np.concatenate([reference(np.stack([one.pixels_HWC for one in chunk])) for chunk in taken.chunks()])
    read_N = np.array([path not in found.refused for path in paths])
    kinds = [sniff(taken.table.encoded(row)) for row in taken.row_N]
    failed = [
        path for path, kind in zip(paths, kinds, strict=True) if path in found.refused and kind in READ_BY_BROWSERS
    ]
    if failed or not read_N.any():
        lost = failed or paths
        raise ExportRefusedError(
            f"the page refuses {len(lost):,} of {counted(len(paths), 'image')}: {found.refused[lost[0]]}"
        )
    if found.refused:
        logger.warning(
            f"{counted(len(found.refused), 'image')} of {len(paths):,} not compared in the browser, which does not "
            "read the format."
        )
    misses = replace(found, probability_NK=found.probability_NK[read_N]).misses(expected_NK[read_N])
    if misses["top1"] or misses["probability"] > LARGEST_DIFFERENCE:
        raise ExportRefusedError(
            f"{found.browser}: another class for {misses['top1']:.0f} of {counted(int(read_N.sum()), 'image')}, and "
            f"probabilities differ by up to {misses['probability']:.2g}; at most {LARGEST_DIFFERENCE:g} passes."
        )
    return EngineParity(
        engine=f"{found.browser}, onnxruntime-web",
        tolerance=LARGEST_DIFFERENCE,
        images=int(read_N.sum()),
        same_top1=int(read_N.sum()),
        largest_difference=misses["probability"],
        largest_difference_in_batches=0.0,
        pixel_values=0,
        differing_pixel_values=0,
    )


def compare_if_it_starts(page: Path, samples: Samples, reference: Reference) -> EngineParity | None:
    """Compare a page as `compare_page`; None, and a warning, if the browser fails."""
    from playwright.sync_api import Error

    try:
        return compare_page(page, samples, reference)
    except Error as error:  # a browser in a sandbox that cannot read the page, or a notebook with a loop of its own
        reason = str(error).strip().partition("\n")[0]
        logger.warning(f"the page is not compared in a browser, only its model is: the browser fails ({reason}).")
        return None


def _batch(view: "Page", images: Sequence[Path]) -> list[dict[str, object]]:
    """Answers to images that are chosen together, in their order."""
    from playwright.sync_api import TimeoutError as LateError

    view.locator("#files").set_input_files(list(images))
    try:
        view.locator(ANSWERS).nth(len(images) - 1).wait_for(state="attached")
    except LateError:
        raise RunStateError(f"the page gave no answer: {view.locator('#said').text_content()}") from None
    given: list[dict[str, object]] = view.eval_on_selector_all(ANSWERS, "items => items.map(item => item.answer)")
    return given


@contextmanager
def opened(timeout_seconds: float) -> "Iterator[tuple[BrowserContext, list[str]]]":
    """Context of a browser without network, and what went wrong in it."""
    executable = _executable()
    if not has_browser() or executable is None:
        raise ConfigError(
            "checking the page needs Playwright and Chromium. Install them: pip install playwright, and Chromium from "
            "your system's packages."
        )
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            context = browser.new_context()
            context.set_offline(True)
            context.set_default_timeout(1000 * timeout_seconds)
            context.route(_NETWORK, lambda route: route.abort())
            context.on("request", lambda request: wrong.append(request.url) if _NETWORK.match(request.url) else None)
            context.on("console", lambda message: wrong.append(message.text))
            context.on("weberror", lambda error: wrong.append(str(error.error)))
            yield context, wrong
        finally:
            browser.close()


def _executable() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)
