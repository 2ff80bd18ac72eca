"""How long a browser takes with a report, and how large it is: Debian's Chromium, driven by Playwright.

    python benchmarks/pages.py runs/cifar10-deep-cnn/report.html runs/comparison-cifar10.html

Each page is opened several times, in turn, in a fresh context. Medians in milliseconds: until the first paint, until
everything is loaded, and, where there is a confusion matrix, from a click on its first cell until pictures are seen.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CELL = ".matrix td a"
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
LOADED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[Path, list[dict[str, float]]] = {page: [] for page in given.pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(given.rounds):
            for page in given.pages:
                found[page].append(timed(browser, page.resolve().as_uri()))
        browser.close()
    print("| page | MB | first paint, ms | loaded, ms | a cell opened, ms |\n|---|---:|---:|---:|---:|")
    for page, times in found.items():
        figures = [median(times, key) for key in ("painted", "loaded", "opened")]
        print(f"| {page} | {page.stat().st_size / 1e6:.1f} | {' | '.join(figures)} |")


def timed(browser: Browser, address: str) -> dict[str, float]:
    """Milliseconds of one visit."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(address, wait_until="load")
    page.wait_for_function(PAINTED)
    times = {"painted": page.evaluate(PAINTED), "loaded": page.evaluate(LOADED)}
    if page.locator(CELL).count():
        began = time.perf_counter()
        page.locator(CELL).first.click()
        page.locator("#sheet li img").first.wait_for(state="visible")
        times["opened"] = 1000 * (time.perf_counter() - began)
    context.close()
    return times


def median(times: list[dict[str, float]], key: str) -> str:
    return f"{statistics.median(one[key] for one in times):.0f}" if key in times[0] else ""


if __name__ == "__main__":
    main()
